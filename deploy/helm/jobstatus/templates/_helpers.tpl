{{/* The names and labels. */}}
{{- define "jobstatus.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "jobstatus.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "jobstatus.labels" -}}
{{ include "jobstatus.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end -}}

{{- define "jobstatus.secretName" -}}
{{- .Values.secret.existing | default (include "jobstatus.fullname" .) -}}
{{- end -}}

{{/* Whether a Secret's files are mounted. */}}
{{- define "jobstatus.hasSecret" -}}
{{- if or .Values.secret.existing .Values.secret.files -}}yes{{- end -}}
{{- end -}}

{{/* The keys of the Secret that issuers name, as a JSON array. */}}
{{- define "jobstatus.issuerFiles" -}}
{{- $files := list }}
{{- range .Values.issuers }}
{{- range list .secret_file .public_key_file .jwks_file }}
{{- if and . (hasPrefix "/run/secrets/jobstatus/" .) }}
{{- $files = append $files (base .) }}
{{- end }}
{{- end }}
{{- end }}
{{- toJson (uniq $files) }}
{{- end -}}

{{/* The variables of some settings, as a ConfigMap's data. */}}
{{- define "jobstatus.variables" -}}
{{- range $name, $value := . }}
JOBSTATUS_{{ $name | upper }}: {{ if kindIs "string" $value }}{{ $value | quote }}{{ else if kindIs "slice" $value }}{{ join "," $value | quote }}{{ else }}{{ $value | toJson | quote }}{{ end }}
{{- end }}
{{- end -}}

{{/* What the parts of a pod have in common. It has no preStop hook, because the service itself goes on serving for its
stop delay after SIGTERM; the kubelet waits for that and 20 s before it kills. */}}
{{- define "jobstatus.podSpec" -}}
enableServiceLinks: false
automountServiceAccountToken: false
terminationGracePeriodSeconds: {{ add .stopDelaySeconds 20 }}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets: {{ toJson . }}
{{- end }}
{{- with .root.Values.nodeSelector }}
nodeSelector: {{ toJson . }}
{{- end }}
{{- with .root.Values.tolerations }}
tolerations: {{ toJson . }}
{{- end }}
{{- with .root.Values.affinity }}
affinity: {{ toJson . }}
{{- end }}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "jobstatus.selector" . | nindent 8 }}
{{- end -}}

{{- define "jobstatus.container" -}}
image: {{ printf "%s:%s" .root.Values.image.repository (.root.Values.image.tag | default .root.Chart.AppVersion) | quote }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
startupProbe:
  httpGet: {path: /startupz, port: admin}
  periodSeconds: 2
  failureThreshold: 60
readinessProbe:
  httpGet: {path: {{ .root.Values.probes.readinessPath }}, port: admin}
  periodSeconds: 3
  timeoutSeconds: 3
  failureThreshold: 2
livenessProbe:
  httpGet: {path: /livez, port: admin}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 3
resources: {{- toYaml .resources | nindent 2 }}
{{- end -}}

{{/* Refuse values that are each valid but not together. */}}
{{- define "jobstatus.check" -}}
{{- if and (eq .Values.store "shared") (not (include "jobstatus.hasSecret" .)) }}
{{- fail "store: shared needs a Secret with the key `store`: set secret.existing, or secret.files.store" }}
{{- end }}
{{- if and .Values.secret.existing .Values.secret.files }}
{{- fail "secret.existing and secret.files are both set: set one of them" }}
{{- end }}
{{- if and (eq .Values.store "shared") .Values.secret.files (not (hasKey .Values.secret.files "store")) }}
{{- fail "store: shared needs secret.files.store, the URL of the store" }}
{{- end }}
{{- if and (eq .Values.store "sqlite") .Values.autoscaling.enabled }}
{{- fail "store: sqlite runs one replica: switch off autoscaling" }}
{{- end }}
{{- if not (or .Values.grpc.tlsSecret .Values.grpc.insecure) }}
{{- fail "gRPC needs TLS: set grpc.tlsSecret, or grpc.insecure if the network keeps strangers out" }}
{{- end }}
{{- if and .Values.edge.enabled (not (or .Values.edge.tlsSecret .Values.grpc.insecure)) }}
{{- fail "the edge needs a client certificate: set edge.tlsSecret" }}
{{- end }}
{{- end -}}
