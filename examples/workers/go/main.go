// A JobStatus worker: it reverses the order of the words of a text, half a second for each.
//
//	worker HOST:PORT create JOB_ID
//	worker HOST:PORT run JOB_ID [LEASE_SECONDS] < TEXT
//	worker HOST:PORT watch JOB_ID
package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	mathrand "math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "example.com/worker/gen/jobstatus/v1"
)

const (
	firstPause      = 100 * time.Millisecond
	longestPause    = 3 * time.Second
	beatPause       = time.Second // between two heartbeats, however much there is to tell
	wordTime        = 500 * time.Millisecond
	maxMessageBytes = 20 << 20 // grpc-go refuses answers above 4 MiB by default; a result can have 16
)

// patience is how long a call may take, and how long it is repeated.
type patience struct{ call, total time.Duration }

var (
	patienceToStart = patience{10 * time.Second, time.Minute}
	patienceToEnd   = patience{time.Minute, time.Hour} // large results take long, outages longer
)

func connect(target string) (*grpc.ClientConn, error) {
	pauses := backoff.Config{BaseDelay: firstPause, Multiplier: 1.6, Jitter: 0.2, MaxDelay: longestPause}
	return grpc.NewClient(target,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: pauses}), // the pauses grow to two minutes by default
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessageBytes)))
}

// errorInfo is what the service says of an error, or nil when the error is not the service's own. It is nil-safe:
// errorInfo(err).GetReason() is "" then.
func errorInfo(err error) *errdetails.ErrorInfo {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			return info
		}
	}
	return nil
}

// isDropped tells whether the job is not this worker's any more: there is nothing left to do or to report.
func isDropped(err error) bool {
	return slices.Contains([]string{"JOB_NOT_FOUND", "JOB_TERMINAL", "LEASE_LOST"}, errorInfo(err).GetReason())
}

// isPassing tells whether the same message should be sent again.
func isPassing(err error) bool {
	switch status.Code(err) {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled:
		return true
	case codes.ResourceExhausted: // without a reason a message is too large, and will be next time
		return errorInfo(err) != nil
	}
	return false
}

// send repeats a call until it is answered or refused for good, the patience is over, or the context ends.
func send[Request, Response any](
	ctx context.Context,
	patience patience,
	call func(context.Context, Request, ...grpc.CallOption) (Response, error),
	request Request,
) (Response, error) {
	ctx, cancel := context.WithTimeout(ctx, patience.total)
	defer cancel()
	for pause := firstPause; ; pause = min(2*pause, longestPause) {
		attempt, cancel := context.WithTimeout(ctx, patience.call)
		response, err := call(attempt, request)
		cancel()
		if !isPassing(err) {
			return response, err
		}
		select {
		case <-ctx.Done():
			return response, err
		case <-time.After(pause/2 + mathrand.N(pause)):
		}
	}
}

func create(ctx context.Context, jobs pb.JobStatusClient, jobID string) error {
	_, err := send(ctx, patienceToStart, jobs.CreateJob, &pb.CreateJobRequest{
		JobId:        &jobID,
		RequestType:  pb.RequestType_REQUEST_TYPE_TEXT_COMPLETION,
		VirtualKeyId: proto.String("vk-1"),
	})
	return err
}

// run works on the job under a lease, and ends it.
func run(ctx context.Context, jobs pb.JobStatusClient, jobID, text string, lease time.Duration) error {
	started, err := send(ctx, patienceToStart, jobs.StartJob, &pb.StartJobRequest{
		JobId:    jobID,
		WorkerId: "go-" + rand.Text(), // each run is a worker of its own
		Lease:    durationpb.New(lease),
	})
	if err != nil {
		return err
	}
	attempt := started.Job.Attempt

	working, stop := context.WithCancelCause(ctx)
	notes, beating := make(chan note, 1), make(chan struct{})
	go func() {
		defer close(beating)
		if err := beat(working, jobs, jobID, attempt, lease, notes); err != nil {
			stop(err)
		}
	}()
	result, jobError := reverse(working, text, notes)
	lost := context.Cause(working)
	stop(nil)
	<-beating
	if lost != nil {
		return lost
	}

	outcome := "completed"
	if jobError != nil {
		outcome = "failed"
		_, err = send(ctx, patienceToEnd, jobs.FailJob, &pb.FailJobRequest{
			JobId: jobID, Attempt: &attempt, Error: jobError, StatusCode: proto.Int32(400),
		})
	} else {
		_, err = send(ctx, patienceToEnd, jobs.CompleteJob, &pb.CompleteJobRequest{
			JobId: jobID, Attempt: &attempt, Result: result,
		})
	}
	if err == nil {
		fmt.Println(outcome)
	}
	return err
}

type note struct {
	progress float64
	message  string
}

// beat sends a heartbeat three times in each lease, and sooner when there is progress, until the context ends. Its
// error says that the job is not this worker's any more. What else goes wrong, the next heartbeat may mend.
func beat(
	ctx context.Context, jobs pb.JobStatusClient, jobID string, attempt int32, lease time.Duration, notes <-chan note,
) error {
	for ctx.Err() == nil {
		request := &pb.HeartbeatJobRequest{JobId: jobID, Attempt: attempt}
		select {
		case <-ctx.Done():
			return nil
		case n := <-notes:
			request.Progress, request.Message = &n.progress, &n.message
		case <-time.After(lease / 3):
		}
		_, err := send(ctx, patience{patienceToStart.call, lease}, jobs.HeartbeatJob, request)
		if isDropped(err) {
			return err
		}
		select {
		case <-ctx.Done():
		case <-time.After(min(beatPause, lease/3)):
		}
	}
	return nil
}

// reverse is the work. It ends early when the context does.
func reverse(ctx context.Context, text string, notes chan note) ([]byte, *pb.JobError) {
	words := strings.Fields(text)
	if len(words) == 0 {
		return nil, &pb.JobError{Error: &pb.ErrorField{
			Type: proto.String("invalid_request_error"), Code: proto.String("empty_text"), Message: "The text is empty.",
		}}
	}
	for i := range words {
		select {
		case <-ctx.Done():
			return nil, nil
		case <-time.After(wordTime):
		}
		select { // the newest note takes the place of one that has not been sent
		case <-notes:
		default:
		}
		notes <- note{float64(i+1) / float64(len(words)), fmt.Sprintf("word %d", i+1)}
	}
	slices.Reverse(words)
	result, _ := json.Marshal(map[string]string{"text": strings.Join(words, " ")}) // strings cannot fail
	return result, nil
}

// watch tells of each version on stderr until the job has ended, then writes the result to stdout. A stream that breaks
// is taken up again.
func watch(ctx context.Context, jobs pb.JobStatusClient, jobID string) error {
	var after int64
	for ; ; time.Sleep(time.Second) {
		stream, err := jobs.WatchJob(ctx, &pb.WatchJobRequest{JobId: jobID, AfterVersion: &after})
		for err == nil {
			var response *pb.WatchJobResponse
			if response, err = stream.Recv(); err == nil {
				after = response.Job.Version
				show(response.Job)
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		// A proxy that cuts a silent stream makes it end with one of these two.
		isCut := errorInfo(err) == nil && slices.Contains([]codes.Code{codes.Internal, codes.Unknown}, status.Code(err))
		if !isPassing(err) && !isCut {
			return err
		}
		log.Printf("taken up again after %s: %s", status.Code(err), status.Convert(err).Message())
	}
}

func show(job *pb.Job) {
	state := strings.ToLower(strings.TrimPrefix(job.State.String(), "JOB_STATE_"))
	log.Printf("v%d %s %.0f%% %s%s", job.Version, state, 100*job.GetProgress(), job.GetMessage(), job.GetError().GetError().GetCode())
	os.Stdout.Write(job.Result)
}

func act(jobs pb.JobStatusClient, command, jobID string, more []string) error {
	ctx := context.Background()
	switch command {
	case "create":
		return create(ctx, jobs, jobID)
	case "watch":
		return watch(ctx, jobs, jobID)
	case "run":
		seconds := 30
		if len(more) > 0 {
			seconds, _ = strconv.Atoi(more[0])
		}
		text, err := io.ReadAll(os.Stdin)
		if err != nil {
			return err
		}
		return run(ctx, jobs, jobID, string(text), time.Duration(seconds)*time.Second)
	}
	return fmt.Errorf("no such command: %s", command)
}

func main() {
	log.SetFlags(0)
	if len(os.Args) < 4 {
		log.Fatal("usage: worker HOST:PORT create|run|watch JOB_ID [LEASE_SECONDS]")
	}
	channel, err := connect(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	defer channel.Close()
	err = act(pb.NewJobStatusClient(channel), os.Args[2], os.Args[3], os.Args[4:])
	switch {
	case isDropped(err):
		info := errorInfo(err)
		fmt.Println("dropped:", info.Reason, info.Metadata["code"])
	case err != nil:
		log.Fatalf("%s %v", errorInfo(err).GetReason(), err) // the queue should deliver the work again
	}
}
