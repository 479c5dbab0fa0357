vcl 4.1;

import directors;

probe alive {                                   # asks the port of the backend, so it cannot be /healthz
    .request =
        "HEAD /openapi.json HTTP/1.1"
        "Host: jobstatus"
        "Connection: close";
    .interval = 1s;
    .timeout = 1s;
    .window = 3;
    .threshold = 2;
    .initial = 2;
}

backend replica_1 {
    .host = "replica-1";
    .port = "8080";
    .probe = alive;
    .connect_timeout = 2s;
    .first_byte_timeout = 75s;                  # more than the longest wait
    .between_bytes_timeout = 75s;               # an event stream sends something every 15 s
}

backend replica_2 {
    .host = "replica-2";
    .port = "8080";
    .probe = alive;
    .connect_timeout = 2s;
    .first_byte_timeout = 75s;
    .between_bytes_timeout = 75s;
}

sub vcl_init {
    new rest = directors.round_robin();
    rest.add_backend(replica_1);
    rest.add_backend(replica_2);
}

sub vcl_recv {
    if (req.url !~ "^/v1/async/" && req.url != "/openapi.json") {
        return (synth(404));
    }
    set req.backend_hint = rest.backend();
    return (pass);                              # an answer belongs to one credential: nothing is kept
}

sub vcl_backend_error {
    if (bereq.retries < 2) {                    # a GET that a replica does not answer is asked of the other one
        set bereq.backend = rest.backend();
        return (retry);
    }
}
