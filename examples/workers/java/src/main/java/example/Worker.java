package example;

import com.google.gson.Gson;
import com.google.protobuf.Any;
import com.google.protobuf.ByteString;
import com.google.protobuf.Duration;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.ErrorInfo;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Set;
import java.util.UUID;
import java.util.concurrent.CancellationException;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicReference;
import java.util.function.Function;
import jobstatus.v1.CompleteJobRequest;
import jobstatus.v1.CreateJobRequest;
import jobstatus.v1.ErrorField;
import jobstatus.v1.FailJobRequest;
import jobstatus.v1.HeartbeatJobRequest;
import jobstatus.v1.Job;
import jobstatus.v1.JobError;
import jobstatus.v1.JobStatusGrpc;
import jobstatus.v1.JobStatusGrpc.JobStatusBlockingStub;
import jobstatus.v1.RequestType;
import jobstatus.v1.StartJobRequest;
import jobstatus.v1.WatchJobRequest;

/**
 * A JobStatus worker: it reverses the order of the words of a text, half a second for each.
 *
 * <pre>
 * worker HOST:PORT create JOB_ID
 * worker HOST:PORT run JOB_ID [LEASE_SECONDS] &lt; TEXT
 * worker HOST:PORT watch JOB_ID
 * </pre>
 */
public final class Worker {
  /** How long a call may take, and how long it is repeated. */
  private record Patience(long callMs, long totalMs) {}

  private static final Patience TO_START = new Patience(10_000, 60_000);
  /** Large results take long, outages longer. */
  private static final Patience TO_END = new Patience(60_000, 3_600_000);

  private static final long FIRST_PAUSE_MS = 100;
  private static final long LONGEST_PAUSE_MS = 3_000;
  /** Between two heartbeats, however much there is to tell. */
  private static final long BEAT_PAUSE_MS = 1_000;

  private static final long WORD_MS = 500;
  /** grpc-java refuses answers above 4 MiB by default; a result can have 16. */
  private static final int MAX_MESSAGE_BYTES = 20 << 20;

  private static final Metadata.Key<String> REASON =
      Metadata.Key.of("jobstatus-reason", Metadata.ASCII_STRING_MARSHALLER);
  private static final Set<String> DROPPED = Set.of("JOB_NOT_FOUND", "JOB_TERMINAL", "LEASE_LOST");

  /** What an empty text is told. */
  private static final class EmptyText extends Exception {}

  private final JobStatusBlockingStub jobs;
  private final String jobId;

  private Worker(ManagedChannel channel, String jobId) {
    this.jobs = JobStatusGrpc.newBlockingStub(channel);
    this.jobId = jobId;
  }

  private static ManagedChannel connect(String target) {
    return Grpc.newChannelBuilder(target, InsecureChannelCredentials.create())
        .maxInboundMessageSize(MAX_MESSAGE_BYTES)
        .keepAliveTime(30, TimeUnit.SECONDS)
        .keepAliveTimeout(10, TimeUnit.SECONDS)
        .build();
  }

  /** The service's word for what is wrong; "" when the error is not the service's own. */
  private static String reason(StatusRuntimeException error) {
    Metadata trailers = error.getTrailers();
    String reason = trailers == null ? null : trailers.get(REASON);
    return reason == null ? "" : reason;
  }

  /** What an ended job's error is called, from the metadata of the google.rpc.ErrorInfo. */
  private static String codeOfEnd(StatusRuntimeException error) throws InvalidProtocolBufferException {
    for (Any detail : StatusProto.fromThrowable(error).getDetailsList()) {
      if (detail.is(ErrorInfo.class)) {
        return detail.unpack(ErrorInfo.class).getMetadataOrDefault("code", "");
      }
    }
    return "";
  }

  /** Whether the job is not this worker's any more: there is nothing left to do or to report. */
  private static boolean isDropped(StatusRuntimeException error) {
    return DROPPED.contains(reason(error));
  }

  /** Whether the same message should be sent again. */
  private static boolean isPassing(StatusRuntimeException error) {
    return switch (error.getStatus().getCode()) {
      case UNAVAILABLE, DEADLINE_EXCEEDED, CANCELLED -> true;
      // Without a reason a message is too large, and will be next time.
      case RESOURCE_EXHAUSTED -> !reason(error).isEmpty();
      default -> false;
    };
  }

  /** Repeats a call until it is answered or refused for good, or the patience is over. */
  private <T> T send(Patience patience, Function<JobStatusBlockingStub, T> call) throws InterruptedException {
    long end = System.nanoTime() + TimeUnit.MILLISECONDS.toNanos(patience.totalMs);
    for (long pause = FIRST_PAUSE_MS; ; pause = Math.min(2 * pause, LONGEST_PAUSE_MS)) {
      try {
        return call.apply(jobs.withDeadlineAfter(patience.callMs, TimeUnit.MILLISECONDS));
      } catch (StatusRuntimeException error) {
        if (!isPassing(error) || System.nanoTime() > end) {
          throw error;
        }
      }
      Thread.sleep((long) (pause * ThreadLocalRandom.current().nextDouble(0.5, 1.5)));
    }
  }

  private void create() throws InterruptedException {
    CreateJobRequest request =
        CreateJobRequest.newBuilder()
            .setJobId(jobId)
            .setRequestType(RequestType.REQUEST_TYPE_TEXT_COMPLETION)
            .setVirtualKeyId("vk-1")
            .build();
    send(TO_START, stub -> stub.createJob(request));
  }

  /** Works on the job under a lease, and ends it. */
  private void run(String text, long leaseSeconds) throws Exception {
    StartJobRequest start =
        StartJobRequest.newBuilder()
            .setJobId(jobId)
            .setWorkerId("java-" + UUID.randomUUID()) // each run is a worker of its own
            .setLease(Duration.newBuilder().setSeconds(leaseSeconds))
            .build();
    int attempt = send(TO_START, stub -> stub.startJob(start)).getJob().getAttempt();

    var notes = new AtomicReference<HeartbeatJobRequest.Builder>();
    var threads = Executors.newFixedThreadPool(2);
    try {
      Future<String> working = threads.submit(() -> reverse(text, notes));
      Future<StatusRuntimeException> beating =
          threads.submit(
              () -> {
                StatusRuntimeException lost = beat(attempt, 1000 * leaseSeconds, notes);
                working.cancel(true);
                return lost;
              });
      String reversed;
      try {
        reversed = working.get();
      } catch (CancellationException lost) {
        throw beating.get();
      } catch (ExecutionException failed) {
        if (!(failed.getCause() instanceof EmptyText)) {
          throw failed;
        }
        reversed = null;
      }
      beating.cancel(true);
      end(attempt, reversed);
    } finally {
      threads.shutdownNow();
    }
  }

  /** Completes the job; without a text, fails it. */
  private void end(int attempt, String reversed) throws InterruptedException {
    if (reversed == null) {
      ErrorField field =
          ErrorField.newBuilder()
              .setType("invalid_request_error")
              .setCode("empty_text")
              .setMessage("The text is empty.")
              .build();
      FailJobRequest request =
          FailJobRequest.newBuilder()
              .setJobId(jobId)
              .setAttempt(attempt)
              .setError(JobError.newBuilder().setError(field))
              .setStatusCode(400)
              .build();
      send(TO_END, stub -> stub.failJob(request));
      System.out.println("failed");
    } else {
      String result = new Gson().toJson(Map.of("text", reversed));
      CompleteJobRequest request =
          CompleteJobRequest.newBuilder()
              .setJobId(jobId)
              .setAttempt(attempt)
              .setResult(ByteString.copyFromUtf8(result))
              .build();
      send(TO_END, stub -> stub.completeJob(request));
      System.out.println("completed");
    }
  }

  /**
   * Sends a heartbeat three times in each lease, and sooner when there is progress, until it is interrupted. Returns
   * when the job is not this worker's any more. What else goes wrong, the next heartbeat may mend.
   */
  private StatusRuntimeException beat(
      int attempt, long leaseMs, AtomicReference<HeartbeatJobRequest.Builder> notes) throws InterruptedException {
    Patience patience = new Patience(TO_START.callMs, leaseMs);
    for (long sentAt = System.nanoTime(); ; ) {
      Thread.sleep(Math.min(BEAT_PAUSE_MS, leaseMs / 3));
      HeartbeatJobRequest.Builder note = notes.getAndSet(null);
      if (note == null && System.nanoTime() - sentAt < TimeUnit.MILLISECONDS.toNanos(leaseMs / 3)) {
        continue;
      }
      HeartbeatJobRequest request =
          (note == null ? HeartbeatJobRequest.newBuilder() : note).setJobId(jobId).setAttempt(attempt).build();
      try {
        send(patience, stub -> stub.heartbeatJob(request));
        sentAt = System.nanoTime();
      } catch (StatusRuntimeException error) {
        if (isDropped(error)) {
          return error;
        }
      }
    }
  }

  /** The work. It ends early when its thread is interrupted. */
  private static String reverse(String text, AtomicReference<HeartbeatJobRequest.Builder> notes)
      throws EmptyText, InterruptedException {
    List<String> words = Arrays.asList(text.strip().split("\\s+"));
    if (text.isBlank()) {
      throw new EmptyText();
    }
    for (int done = 1; done <= words.size(); done++) {
      Thread.sleep(WORD_MS);
      notes.set(
          HeartbeatJobRequest.newBuilder().setProgress((double) done / words.size()).setMessage("word " + done));
    }
    Collections.reverse(words);
    return String.join(" ", words);
  }

  /**
   * Tells of each version on stderr until the job has ended, then writes the result to stdout. A stream that breaks is
   * taken up again.
   */
  private void watch() throws InterruptedException, IOException {
    for (long after = 0; ; Thread.sleep(1000)) {
      try {
        var request = WatchJobRequest.newBuilder().setJobId(jobId).setAfterVersion(after).build();
        var responses = jobs.watchJob(request);
        while (responses.hasNext()) {
          Job job = responses.next().getJob();
          after = job.getVersion();
          show(job);
        }
        return;
      } catch (StatusRuntimeException error) {
        Status.Code code = error.getStatus().getCode();
        // A proxy that cuts a silent stream makes it end with one of these two.
        boolean isCut = reason(error).isEmpty() && (code == Status.Code.INTERNAL || code == Status.Code.UNKNOWN);
        if (!isPassing(error) && !isCut) {
          throw error;
        }
        System.err.println("taken up again after " + error.getMessage());
      }
    }
  }

  private static void show(Job job) throws IOException {
    String state = job.getState().name().replace("JOB_STATE_", "").toLowerCase(Locale.ROOT);
    String code = job.getError().getError().getCode();
    System.err.printf(
        "v%d %s %.0f%% %s%s%n", job.getVersion(), state, 100 * job.getProgress(), job.getMessage(), code);
    job.getResult().writeTo(System.out);
    System.out.flush();
  }

  private void act(String command, String[] more) throws Exception {
    switch (command) {
      case "create" -> create();
      case "watch" -> watch();
      case "run" -> {
        String text = new String(System.in.readAllBytes(), StandardCharsets.UTF_8);
        run(text, more.length == 0 ? 30 : Long.parseLong(more[0]));
      }
      default -> throw new IllegalArgumentException("no such command: " + command);
    }
  }

  public static void main(String[] args) throws Exception {
    if (args.length < 3) {
      throw new IllegalArgumentException("usage: worker HOST:PORT create|run|watch JOB_ID [LEASE_SECONDS]");
    }
    ManagedChannel channel = connect(args[0]);
    try {
      new Worker(channel, args[2]).act(args[1], Arrays.copyOfRange(args, 3, args.length));
    } catch (StatusRuntimeException error) {
      if (!isDropped(error)) {
        System.err.println(reason(error) + " " + error.getMessage());
        System.exit(1); // the queue should deliver the work again
      }
      System.out.println("dropped: " + reason(error) + " " + codeOfEnd(error));
    } finally {
      channel.shutdownNow();
    }
  }
}
