// A JobStatus worker: it reverses the order of the words of a text, half a second for each.
//
//     worker HOST:PORT create JOB_ID
//     worker HOST:PORT run JOB_ID [LEASE_SECONDS] < TEXT
//     worker HOST:PORT watch JOB_ID

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <iostream>
#include <iterator>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <set>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include <google/protobuf/struct.pb.h>
#include <google/protobuf/util/json_util.h>
#include <grpcpp/grpcpp.h>
#include <unistd.h>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "jobstatus/v1/job_status.grpc.pb.h"

using namespace jobstatus::v1;
using namespace std::chrono_literals;
using std::chrono::milliseconds;
using std::chrono::seconds;
using std::chrono::steady_clock;

namespace {

// How long a call may take, and how long it is repeated.
struct Patience {
  milliseconds call, total;
};

constexpr Patience kToStart{10s, 1min};
constexpr Patience kToEnd{1min, 1h};  // large results take long, outages longer
constexpr milliseconds kFirstPause = 100ms, kLongestPause = 3s;
constexpr milliseconds kBeatPause = 1s;  // between two heartbeats, however much there is to tell
constexpr milliseconds kWordTime = 500ms;

std::unique_ptr<JobStatus::Stub> Connect(const std::string& target) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(20 << 20);  // 4 MiB by default; a result can have 16
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 30'000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10'000);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);  // 2 by default, after which a silent stream has no pings
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, kFirstPause.count());
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, kLongestPause.count());  // two minutes by default
  return JobStatus::NewStub(grpc::CreateCustomChannel(target, grpc::InsecureChannelCredentials(), arguments));
}

// A status with the service's word for what is wrong; "" when the error is not the service's own.
struct Outcome {
  grpc::Status status;
  std::string reason;

  Outcome(const grpc::Status& status, const grpc::ClientContext& context) : status(status) {
    const auto& trailers = context.GetServerTrailingMetadata();
    if (const auto found = trailers.find("jobstatus-reason"); found != trailers.end()) {
      reason.assign(found->second.data(), found->second.size());
    }
  }

  bool ok() const { return status.ok(); }

  // Whether the job is not this worker's any more: there is nothing left to do or to report.
  bool IsDropped() const {
    static const std::set<std::string> dropped{"JOB_NOT_FOUND", "JOB_TERMINAL", "LEASE_LOST"};
    return dropped.contains(reason);
  }

  // Whether the same message should be sent again.
  bool IsPassing() const {
    switch (status.error_code()) {
      case grpc::UNAVAILABLE:
      case grpc::DEADLINE_EXCEEDED:
      case grpc::CANCELLED:
        return true;
      case grpc::RESOURCE_EXHAUSTED:  // without a reason a message is too large, and will be next time
        return !reason.empty();
      default:
        return false;
    }
  }

  // What an ended job's error is called, from the metadata of the google.rpc.ErrorInfo.
  std::string CodeOfEnd() const {
    google::rpc::Status details;
    google::rpc::ErrorInfo info;
    details.ParseFromString(status.error_details());
    for (const auto& detail : details.details()) {
      if (detail.UnpackTo(&info) && info.metadata().contains("code")) return info.metadata().at("code");
    }
    return "";
  }
};

// Returns after the time, or at once when a stop is requested.
void Sleep(milliseconds time, const std::stop_token& stop) {
  std::mutex mutex;
  std::condition_variable_any changed;
  std::unique_lock lock(mutex);
  changed.wait_for(lock, stop, time, [] { return false; });
}

// Repeats a call until it is answered or refused for good, the patience is over, or a stop is requested.
template <typename Request, typename Response>
Outcome Send(JobStatus::Stub& jobs, const Patience& patience,
             grpc::Status (JobStatus::Stub::*call)(grpc::ClientContext*, const Request&, Response*),
             const Request& request, Response* response, const std::stop_token& stop = {}) {
  static thread_local std::minstd_rand random{std::random_device{}()};
  const auto end = steady_clock::now() + patience.total;
  for (auto pause = kFirstPause;; pause = std::min(2 * pause, kLongestPause)) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + patience.call);
    const Outcome outcome((jobs.*call)(&context, request, response), context);
    if (!outcome.IsPassing() || steady_clock::now() > end || stop.stop_requested()) return outcome;
    Sleep(milliseconds(std::uniform_int_distribution<int>(pause.count() / 2, 3 * pause.count() / 2)(random)), stop);
  }
}

Outcome Create(JobStatus::Stub& jobs, const std::string& job_id) {
  CreateJobRequest request;
  CreateJobResponse response;
  request.set_job_id(job_id);
  request.set_request_type(REQUEST_TYPE_TEXT_COMPLETION);
  request.set_virtual_key_id("vk-1");
  return Send(jobs, kToStart, &JobStatus::Stub::CreateJob, request, &response);
}

// The newest word of the work, which the heartbeats take along.
class Notes {
 public:
  void Put(double progress, std::string message) {
    std::lock_guard guard(mutex_);
    latest_.emplace(progress, std::move(message));
    changed_.notify_all();
  }

  // Returns as soon as there is one, or with none after the time or when a stop is requested.
  std::optional<std::pair<double, std::string>> Take(milliseconds time, const std::stop_token& stop) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, stop, time, [this] { return latest_.has_value(); });
    return std::exchange(latest_, std::nullopt);
  }

 private:
  std::mutex mutex_;
  std::condition_variable_any changed_;
  std::optional<std::pair<double, std::string>> latest_;
};

// Sends a heartbeat three times in each lease, and sooner when there is progress, until a stop is requested. Returns
// how it heard that the job is not this worker's any more. What else goes wrong, the next heartbeat may mend.
std::optional<Outcome> Beat(JobStatus::Stub& jobs, HeartbeatJobRequest request, seconds lease, Notes& notes,
                            const std::stop_token& stop) {
  while (true) {
    const auto note = notes.Take(lease / 3, stop);
    if (stop.stop_requested()) return std::nullopt;
    request.clear_progress();
    request.clear_message();
    if (note) {
      request.set_progress(note->first);
      request.set_message(note->second);
    }
    HeartbeatJobResponse response;
    const auto outcome =
        Send(jobs, {kToStart.call, lease}, &JobStatus::Stub::HeartbeatJob, request, &response, stop);
    if (outcome.IsDropped()) return outcome;
    Sleep(std::min<milliseconds>(kBeatPause, lease / 3), stop);
  }
}

// The work: the JSON of the result, or none for an empty text. It ends early when a stop is requested.
std::optional<std::string> Reverse(const std::string& text, Notes& notes, const std::stop_token& stop) {
  std::istringstream in(text);
  const std::vector<std::string> words{std::istream_iterator<std::string>(in), {}};
  if (words.empty()) return std::nullopt;
  std::string reversed;
  for (size_t done = 1; done <= words.size() && !stop.stop_requested(); ++done) {
    Sleep(kWordTime, stop);
    reversed.insert(0, done == 1 ? words[0] : words[done - 1] + " ");
    notes.Put(static_cast<double>(done) / words.size(), "word " + std::to_string(done));
  }
  google::protobuf::Struct result;
  (*result.mutable_fields())["text"].set_string_value(reversed);
  std::string json;
  google::protobuf::util::MessageToJsonString(result, &json);
  return json;
}

// Works on the job under a lease, and ends it.
Outcome Run(JobStatus::Stub& jobs, const std::string& job_id, const std::string& text, seconds lease) {
  StartJobRequest start;
  StartJobResponse started;
  start.set_job_id(job_id);
  start.set_worker_id("cpp-" + std::to_string(getpid()) + "-" +
                      std::to_string(std::chrono::system_clock::now().time_since_epoch().count()));  // each run its own
  start.mutable_lease()->set_seconds(lease.count());
  if (auto outcome = Send(jobs, kToStart, &JobStatus::Stub::StartJob, start, &started); !outcome.ok()) return outcome;
  const auto attempt = started.job().attempt();

  HeartbeatJobRequest heartbeat;
  heartbeat.set_job_id(job_id);
  heartbeat.set_attempt(attempt);
  Notes notes;
  std::stop_source working;
  std::optional<Outcome> lost;
  std::jthread beating([&](const std::stop_token& stop) {
    lost = Beat(jobs, heartbeat, lease, notes, stop);
    working.request_stop();
  });
  const auto result = Reverse(text, notes, working.get_token());
  beating.request_stop();
  beating.join();
  if (lost) return *lost;

  if (result) {
    CompleteJobRequest complete;
    CompleteJobResponse completed;
    complete.set_job_id(job_id);
    complete.set_attempt(attempt);
    complete.set_result(*result);
    const auto outcome = Send(jobs, kToEnd, &JobStatus::Stub::CompleteJob, complete, &completed);
    if (outcome.ok()) std::cout << "completed" << std::endl;
    return outcome;
  }
  FailJobRequest fail;
  FailJobResponse failed;
  fail.set_job_id(job_id);
  fail.set_attempt(attempt);
  fail.set_status_code(400);
  auto& error = *fail.mutable_error()->mutable_error();
  error.set_type("invalid_request_error");
  error.set_code("empty_text");
  error.set_message("The text is empty.");
  const auto outcome = Send(jobs, kToEnd, &JobStatus::Stub::FailJob, fail, &failed);
  if (outcome.ok()) std::cout << "failed" << std::endl;
  return outcome;
}

void Show(const Job& job) {
  std::string state = JobState_Name(job.state()).substr(sizeof("JOB_STATE_") - 1);
  std::transform(state.begin(), state.end(), state.begin(), [](unsigned char letter) { return std::tolower(letter); });
  std::cerr << "v" << job.version() << " " << state << " " << static_cast<int>(100 * job.progress()) << "% "
            << job.message() << job.error().error().code() << std::endl;
  std::cout << job.result() << std::flush;
}

// Tells of each version on stderr until the job has ended, then writes the result to stdout. A stream that breaks is
// taken up again.
Outcome Watch(JobStatus::Stub& jobs, const std::string& job_id) {
  WatchJobRequest request;
  request.set_job_id(job_id);
  while (true) {
    grpc::ClientContext context;
    const auto reader = jobs.WatchJob(&context, request);
    for (WatchJobResponse response; reader->Read(&response);) {
      request.set_after_version(response.job().version());
      Show(response.job());
    }
    const Outcome outcome(reader->Finish(), context);
    // A proxy that cuts a silent stream makes it end with one of these two.
    const auto code = outcome.status.error_code();
    const bool is_cut = outcome.reason.empty() && (code == grpc::INTERNAL || code == grpc::UNKNOWN);
    if (!outcome.IsPassing() && !is_cut) return outcome;
    std::cerr << "taken up again after " << code << ": " << outcome.status.error_message() << std::endl;
    std::this_thread::sleep_for(1s);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  const std::string command = arguments.size() < 3 ? "" : arguments[1];
  if (command != "create" && command != "run" && command != "watch") {
    std::cerr << "usage: worker HOST:PORT create|run|watch JOB_ID [LEASE_SECONDS]" << std::endl;
    return 2;
  }
  const auto jobs = Connect(arguments[0]);
  const auto& job_id = arguments[2];
  const auto outcome = [&] {
    if (command == "create") return Create(*jobs, job_id);
    if (command == "watch") return Watch(*jobs, job_id);
    const std::string text{std::istreambuf_iterator<char>(std::cin), {}};
    return Run(*jobs, job_id, text, seconds(arguments.size() > 3 ? std::stoi(arguments[3]) : 30));
  }();
  if (outcome.ok()) return 0;
  if (outcome.IsDropped()) {
    std::cout << "dropped: " << outcome.reason << " " << outcome.CodeOfEnd() << std::endl;
    return 0;
  }
  std::cerr << outcome.reason << " " << outcome.status.error_message() << std::endl;
  return 1;  // the queue should deliver the work again
}
