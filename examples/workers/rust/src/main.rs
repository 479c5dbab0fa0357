//! A JobStatus worker: it reverses the order of the words of a text, half a second for each.
//!
//!     worker HOST:PORT create JOB_ID
//!     worker HOST:PORT run JOB_ID [LEASE_SECONDS] < TEXT
//!     worker HOST:PORT watch JOB_ID

use std::error::Error;
use std::io::{Write, stdout};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::json;
use tokio::io::{AsyncReadExt, stdin};
use tokio::sync::watch::{self, Receiver, Sender};
use tokio::time::{sleep, timeout};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status};
use tonic_types::StatusExt;

mod jobstatus {
    tonic::include_proto!("jobstatus.v1");
}
use jobstatus::job_status_client::JobStatusClient;
use jobstatus::{
    CompleteJobRequest, CreateJobRequest, ErrorField, FailJobRequest, HeartbeatJobRequest, Job, JobError, RequestType,
    StartJobRequest, WatchJobRequest,
};

type Jobs = JobStatusClient<Channel>;

/// How long a call may take, and how long it is repeated.
#[derive(Clone, Copy)]
struct Patience {
    call: Duration,
    total: Duration,
}

const TO_START: Patience = Patience { call: Duration::from_secs(10), total: Duration::from_secs(60) };
/// Large results take long, outages longer.
const TO_END: Patience = Patience { call: Duration::from_secs(60), total: Duration::from_secs(3600) };
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(3);
/// Between two heartbeats, however much there is to tell.
const BEAT_PAUSE: Duration = Duration::from_secs(1);
const WORD_TIME: Duration = Duration::from_millis(500);
/// tonic refuses answers above 4 MiB by default; a result can have 16.
const MAX_MESSAGE_BYTES: usize = 20 << 20;

fn connect(target: &str) -> Result<Jobs, tonic::transport::Error> {
    let channel = Endpoint::from_shared(format!("http://{target}"))?
        .http2_keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(10))
        .connect_lazy();
    Ok(JobStatusClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES))
}

/// The service's word for what is wrong; "" when the error is not the service's own.
fn reason(status: &Status) -> &str {
    status.metadata().get("jobstatus-reason").and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// What an ended job's error is called, from the metadata of the google.rpc.ErrorInfo.
fn code_of_end(status: &Status) -> String {
    let info = status.get_details_error_info();
    info.and_then(|info| info.metadata.get("code").cloned()).unwrap_or_default()
}

/// Whether the job is not this worker's any more: there is nothing left to do or to report.
fn is_dropped(status: &Status) -> bool {
    matches!(reason(status), "JOB_NOT_FOUND" | "JOB_TERMINAL" | "LEASE_LOST")
}

/// Whether the same message should be sent again.
fn is_passing(status: &Status) -> bool {
    match status.code() {
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => true,
        // tonic says Unknown where a connection breaks under a call.
        Code::Unknown => reason(status).is_empty(),
        // Without a reason a message is too large, and will be next time.
        Code::ResourceExhausted => !reason(status).is_empty(),
        _ => false,
    }
}

/// Repeats a call until it is answered or refused for good, or the patience is over.
async fn send<M: Clone, R>(
    patience: Patience,
    message: M,
    call: impl AsyncFn(Request<M>) -> Result<Response<R>, Status>,
) -> Result<R, Status> {
    let (end, mut pause) = (Instant::now() + patience.total, FIRST_PAUSE);
    loop {
        let mut request = Request::new(message.clone());
        request.set_timeout(patience.call);
        match call(request).await {
            Err(status) if is_passing(&status) && Instant::now() < end => sleep(pause).await,
            answer => return answer.map(Response::into_inner),
        }
        pause = (2 * pause).min(LONGEST_PAUSE);
    }
}

async fn create(jobs: &Jobs, job_id: &str) -> Result<(), Status> {
    let request = CreateJobRequest {
        job_id: Some(job_id.into()),
        request_type: RequestType::TextCompletion.into(),
        virtual_key_id: Some("vk-1".into()),
        ..Default::default()
    };
    send(TO_START, request, async |request| jobs.clone().create_job(request).await).await?;
    Ok(())
}

/// Works on the job under a lease, and ends it.
async fn run(jobs: &Jobs, job_id: &str, text: &str, lease: Duration) -> Result<(), Status> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_nanos();
    let worker_id = format!("rust-{}-{now}", std::process::id()); // each run is a worker of its own
    let lease_field = Some(lease.try_into().expect("a short lease"));
    let start = StartJobRequest { job_id: job_id.into(), worker_id, lease: lease_field };
    let started = send(TO_START, start, async |request| jobs.clone().start_job(request).await).await?;
    let attempt = started.job.unwrap_or_default().attempt;

    let (notes, latest) = watch::channel(None);
    let outcome = tokio::select! {
        outcome = reverse(text, notes) => outcome,
        lost = beat(jobs, job_id, attempt, lease, latest) => return Err(lost),
    };

    let (job_id, attempt) = (job_id.to_owned(), Some(attempt));
    match outcome {
        Ok(text) => {
            let result = json!({ "text": text }).to_string().into_bytes();
            let request = CompleteJobRequest { job_id, attempt, result, status_code: None };
            send(TO_END, request, async |request| jobs.clone().complete_job(request).await).await?;
            println!("completed");
        }
        Err(field) => {
            let error = Some(JobError { error: Some(field), ..Default::default() });
            let request = FailJobRequest { job_id, attempt, error, status_code: Some(400) };
            send(TO_END, request, async |request| jobs.clone().fail_job(request).await).await?;
            println!("failed");
        }
    }
    Ok(())
}

type Note = (f64, String);

/// Sends a heartbeat three times in each lease, and sooner when there is progress. Returns when the job is not this
/// worker's any more. What else goes wrong, the next heartbeat may mend.
async fn beat(jobs: &Jobs, job_id: &str, attempt: i32, lease: Duration, mut notes: Receiver<Option<Note>>) -> Status {
    let patience = Patience { total: lease, ..TO_START };
    loop {
        let is_news = timeout(lease / 3, notes.changed()).await.is_ok();
        let note = notes.borrow_and_update().clone().filter(|_| is_news);
        let (progress, message) = note.unzip();
        let request = HeartbeatJobRequest { job_id: job_id.into(), attempt, progress, message };
        match send(patience, request, async |request| jobs.clone().heartbeat_job(request).await).await {
            Err(status) if is_dropped(&status) => return status,
            _ => sleep(BEAT_PAUSE.min(lease / 3)).await,
        }
    }
}

/// The work.
async fn reverse(text: &str, notes: Sender<Option<Note>>) -> Result<String, ErrorField> {
    let words: Vec<_> = text.split_whitespace().collect();
    if words.is_empty() {
        return Err(ErrorField {
            r#type: Some("invalid_request_error".into()),
            code: Some("empty_text".into()),
            message: "The text is empty.".into(),
            ..Default::default()
        });
    }
    for done in 1..=words.len() {
        sleep(WORD_TIME).await;
        notes.send_replace(Some((done as f64 / words.len() as f64, format!("word {done}"))));
    }
    Ok(words.into_iter().rev().collect::<Vec<_>>().join(" "))
}

/// Tells of each version on stderr until the job has ended, then writes the result to stdout. A stream that breaks is
/// taken up again.
async fn watch(jobs: &Jobs, job_id: &str) -> Result<(), Status> {
    let mut after = 0;
    loop {
        let Err(status) = watch_once(jobs, job_id, &mut after).await else { return Ok(()) };
        // A proxy that cuts a silent stream makes it end with one of these two.
        let is_cut = reason(&status).is_empty() && matches!(status.code(), Code::Internal | Code::Unknown);
        if !is_passing(&status) && !is_cut {
            return Err(status);
        }
        eprintln!("taken up again after {:?}: {}", status.code(), status.message());
        sleep(Duration::from_secs(1)).await;
    }
}

async fn watch_once(jobs: &Jobs, job_id: &str, after: &mut i64) -> Result<(), Status> {
    let request = WatchJobRequest { job_id: job_id.into(), after_version: Some(*after), ..Default::default() };
    let mut stream = jobs.clone().watch_job(request).await?.into_inner();
    while let Some(response) = stream.message().await? {
        let job = response.job.unwrap_or_default();
        *after = job.version;
        show(&job);
    }
    Ok(())
}

fn show(job: &Job) {
    let state = job.state().as_str_name().trim_start_matches("JOB_STATE_").to_lowercase();
    let code = job.error.as_ref().and_then(|error| error.error.as_ref()).map(|field| field.code()).unwrap_or_default();
    eprintln!("v{} {state} {:.0}% {}{code}", job.version, 100.0 * job.progress(), job.message());
    stdout().write_all(job.result()).expect("a place for the result");
}

async fn act(jobs: &Jobs, command: &str, job_id: &str, more: &[String]) -> Result<(), Box<dyn Error>> {
    match command {
        "create" => create(jobs, job_id).await?,
        "watch" => watch(jobs, job_id).await?,
        "run" => {
            let seconds = more.first().map_or(Ok(30), |seconds| seconds.parse())?;
            let mut text = String::new();
            stdin().read_to_string(&mut text).await?;
            run(jobs, job_id, &text, Duration::from_secs(seconds)).await?;
        }
        _ => return Err(format!("no such command: {command}").into()),
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [target, command, job_id, more @ ..] = arguments.as_slice() else {
        return Err("usage: worker HOST:PORT create|run|watch JOB_ID [LEASE_SECONDS]".into());
    };
    let Err(error) = act(&connect(target)?, command, job_id, more).await else { return Ok(()) };
    match error.downcast_ref::<Status>() {
        Some(status) if is_dropped(status) => println!("dropped: {} {}", reason(status), code_of_end(status)),
        Some(status) => {
            eprintln!("{} {}", reason(status), status.message());
            std::process::exit(1); // the queue should deliver the work again
        }
        None => return Err(error),
    }
    Ok(())
}
