// Reads manifests from standard input and decodes those of the Prometheus operator into its own types, strictly: a field
// that is misspelt or of another type is an error. Prints how many there were.
package main

import (
	"bytes"
	"fmt"
	"io"
	"os"

	v1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"sigs.k8s.io/yaml"
)

func main() {
	manifests, err := io.ReadAll(os.Stdin)
	if err != nil {
		fail(err)
	}
	count := 0
	for _, document := range bytes.Split(manifests, []byte("\n---\n")) {
		var head struct{ Kind string }
		if err := yaml.Unmarshal(document, &head); err != nil {
			fail(err)
		}
		var decoded any
		switch head.Kind {
		case "ServiceMonitor":
			decoded = &v1.ServiceMonitor{}
		case "PrometheusRule":
			decoded = &v1.PrometheusRule{}
		default:
			continue
		}
		if err := yaml.UnmarshalStrict(document, decoded); err != nil {
			fail(fmt.Errorf("%s: %w", head.Kind, err))
		}
		count++
	}
	fmt.Println(count)
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
