// Polls with the client that oapi-codegen makes: URL TOKEN JOB…; the job "waits" is waited for.
package main

import (
	"context"
	"encoding/json"
	"net/http"
	"os"

	"clients/jobstatus"
)

func main() {
	authorize := func(_ context.Context, request *http.Request) error {
		request.Header.Set("Authorization", "Bearer "+os.Args[2])
		return nil
	}
	client, err := jobstatus.NewClientWithResponses(os.Args[1], jobstatus.WithRequestEditorFn(authorize))
	if err != nil {
		panic(err)
	}
	for _, job := range os.Args[3:] {
		params := &jobstatus.GetAsyncTranscriptionJobParams{}
		if job == "waits" {
			wait := "wait=30"
			params.Prefer = &wait
		}
		answer, err := client.GetAsyncTranscriptionJobWithResponse(context.Background(), job, params)
		if err != nil {
			panic(err)
		}
		body, failure := answer.JSON200, answer.JSON404
		if body == nil {
			body = answer.JSON202
		}
		row := []any{job, answer.StatusCode(), nil, nil, nil}
		if body != nil {
			row[2], failure = body.Status, body.Error
			if result, ok := body.Result.(map[string]any); ok {
				row[3] = result["text"]
			}
		}
		if failure != nil {
			row[4] = failure.Error.Message
		}
		json.NewEncoder(os.Stdout).Encode(row)
	}
}
