// Polls with the client that openapi-generator makes for Go: URL TOKEN JOB…; the job "waits" is waited for.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"os"

	"clients/jobstatus"
)

func main() {
	configuration := jobstatus.NewConfiguration()
	configuration.Servers = jobstatus.ServerConfigurations{{URL: os.Args[1]}}
	api := jobstatus.NewAPIClient(configuration).AsyncJobsAPI
	ctx := context.WithValue(context.Background(), jobstatus.ContextAccessToken, os.Args[2])
	for _, job := range os.Args[3:] {
		call := api.GetAsyncTranscriptionJob(ctx, job)
		if job == "waits" {
			call = call.Prefer("wait=30")
		}
		body, answer, err := call.Execute()
		row := []any{job, answer.StatusCode, nil, nil, nil}
		var refused *jobstatus.GenericOpenAPIError
		if errors.As(err, &refused) {
			row[4] = refused.Model().(jobstatus.BifrostError).Error.Message
		} else {
			row[2] = string(body.Status)
			if result, ok := body.Result.(map[string]any); ok {
				row[3] = result["text"]
			}
			if body.Error != nil {
				row[4] = body.Error.Error.Message
			}
		}
		json.NewEncoder(os.Stdout).Encode(row)
	}
}
