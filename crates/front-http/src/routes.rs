//! The table of the interface: every route once, with its parameters, bodies, answers and errors. The dispatcher finds
//! routes in it, the query parser takes types from it and the OpenAPI document is printed from it, so that what is
//! served and what is documented cannot differ.

mod identity;

use byname_api::Code;

use crate::body::MAX_BODY_BYTES;
use crate::pages::Page;

/// One method on one path.
pub(crate) struct Route {
    pub(crate) method: &'static str,
    pub(crate) path: Shape,
    pub(crate) operation: Operation,
    /// One line for the document.
    pub(crate) summary: &'static str,
    /// Query parameters; any other is refused.
    pub(crate) query: &'static [Param],
    /// Request headers that matter, for the document.
    pub(crate) headers: &'static [HeaderParam],
    pub(crate) body: Body,
    /// Bytes of body that are taken.
    pub(crate) room: usize,
    /// Statuses of success.
    pub(crate) answers: &'static [Answer],
    /// Codes that are to be expected, beside those that every route may give.
    pub(crate) errors: &'static [Code],
    /// Served without asking who calls.
    pub(crate) open: bool,
}

/// What a path looks like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Shape {
    /// This path.
    Exact(&'static str),
    /// This prefix, then a name without its first slash.
    Named(&'static str),
    /// `/v1/services/`, a name without its first slash, `:` and this word.
    Verb(&'static str),
    /// `/v1/errors/` and a code.
    ErrorCode,
}

/// What a route does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Operation {
    Read,
    Put,
    Patch,
    Delete,
    Find,
    List,
    Status,
    Batch,
    Act(Verb),
    ActMany(Verb),
    Advertise,
    Withdraw,
    Report,
    Drain,
    Search,
    Watch,
    Lock,
    Unlock,
    Why,
    Logs,
    Login,
    Logout,
    Whoami,
    Enrol,
    Certify,
    Trust,
    Introduce,
    Verify,
    Invite,
    Join,
    Revoke,
    Access,
    Audit,
    Cluster,
    Version,
    Live,
    Ready,
    Metrics,
    OpenApi,
    Proto,
    IdentityProto,
    ErrorPage,
    Page(Page),
}

/// A query parameter.
pub(crate) struct Param {
    pub(crate) name: &'static str,
    pub(crate) kind: ParamKind,
    pub(crate) doc: &'static str,
}

/// The type of a query parameter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ParamKind {
    /// `true` or `false`, with the default.
    Bool(bool),
    /// A whole number within bounds.
    Count(u32, u32),
    /// A length of time.
    Span,
    /// An instance's id.
    Instance,
    /// A point in time, RFC 3339.
    Time,
    /// One of these words.
    Word(&'static [&'static str]),
    /// Any text.
    Text,
}

/// A request header with a meaning.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum HeaderParam {
    IfMatch,
    IfNoneMatch,
    IdempotencyKey,
    LastEventId,
}

/// The body of a request; the text is the name of its schema.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Body {
    None,
    Optional(&'static str),
    Required(&'static str),
    MergePatch(&'static str),
}

/// An answer of success.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) doc: &'static str,
    pub(crate) content: Content,
    /// Names of response headers.
    pub(crate) headers: &'static [&'static str],
}

/// What an answer holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Content {
    /// JSON of this schema.
    Json(&'static str),
    /// Text.
    Text,
    /// For a browser: this type.
    Page(&'static str),
    /// Server-sent events.
    Events,
}

/// What the dispatcher finds.
pub(crate) enum Found<'a> {
    /// The route, and what the path holds: a name without its first slash, percent-encoded as sent, or a code.
    Route(&'static Route, &'a str),
    /// The path exists with these methods only.
    OtherMethods(String),
    /// There is no such path.
    Nothing,
}

/// Every route.
pub(crate) fn every() -> impl Iterator<Item = &'static Route> {
    ROUTES.iter().chain(identity::ROUTES)
}

/// The route for a method and a path. HEAD is found as GET.
pub(crate) fn find<'a>(method: &str, path: &'a str) -> Found<'a> {
    let wanted = if method == "HEAD" { "GET" } else { method };
    // An exact path hides the shapes that would match it too (`/v1/names/` is the root).
    let exact = every().any(|r| matches!(r.path, Shape::Exact(p) if p == path));
    let mut methods: Vec<&str> = Vec::new();
    for route in every().filter(|r| matches!(r.path, Shape::Exact(_)) == exact) {
        if let Some(rest) = route.path.rest_of(path) {
            if route.method == wanted {
                return Found::Route(route, rest);
            }
            methods.push(route.method);
        }
    }
    if methods.is_empty() {
        return Found::Nothing;
    }
    if methods.contains(&"GET") {
        methods.push("HEAD");
    }
    Found::OtherMethods(methods.join(", "))
}

impl Shape {
    /// What the path holds beyond this shape, when it has the shape.
    fn rest_of<'a>(&self, path: &'a str) -> Option<&'a str> {
        match *self {
            Shape::Exact(exact) => (path == exact).then_some(""),
            Shape::Named(prefix) => path.strip_prefix(prefix),
            Shape::Verb(verb) => {
                let (name, word) = path.strip_prefix(SERVICES)?.rsplit_once(':')?;
                (word == verb).then_some(name)
            }
            Shape::ErrorCode => path.strip_prefix("/v1/errors/"),
        }
    }

    /// The path as OpenAPI writes it.
    pub(crate) fn template(&self) -> String {
        match *self {
            Shape::Exact(path) => path.into(),
            Shape::Named(prefix) => format!("{prefix}{{path}}"),
            Shape::Verb(verb) => format!("{SERVICES}{{path}}:{verb}"),
            Shape::ErrorCode => "/v1/errors/{code}".into(),
        }
    }
}

const SERVICES: &str = "/v1/services/";

use Code::*;
use ParamKind as K;
use byname_api::request::Verb;

const fn json(status: u16, doc: &'static str, schema: &'static str) -> Answer {
    Answer { status, doc, content: Content::Json(schema), headers: &[] }
}

const fn versioned(status: u16, doc: &'static str, schema: &'static str) -> Answer {
    Answer { status, doc, content: Content::Json(schema), headers: &["ETag"] }
}

const fn text(doc: &'static str) -> Answer {
    Answer { status: 200, doc, content: Content::Text, headers: &[] }
}

const CONSISTENT: Param = Param {
    name: "consistent",
    kind: K::Bool(false),
    doc: "Ask for a linearizable answer instead of the newest that this server has.",
};

const LISTING: &[Param] = &[
    Param {
        name: "pattern",
        kind: K::Text,
        doc: "Which names: `*` within a label, `?`, `[a-z]`, `{a,b}`, `**` for any number of labels. Every name when absent.",
    },
    Param { name: "limit", kind: K::Count(1, 10_000), doc: "At most so many; 1000 when absent." },
    Param { name: "next", kind: K::Text, doc: "The `next` of the page before." },
    Param { name: "set", kind: K::Text, doc: "Only objects that were declared by this apply set." },
    CONSISTENT,
];

const READ_QUERY: &[Param] = &[CONSISTENT];

const WRITE_ERRORS: &[Code] = &[InvalidName, NotFound, Conflict, TooLarge, Unsupported, AliasLoop];
const ACT_ERRORS: &[Code] = &[
    InvalidName,
    NotFound,
    Conflict,
    AliasLoop,
    NotRunning,
    StartFailed,
    StartTimeout,
    NoHost,
    CrashLooping,
    Timeout,
    Unsupported,
    TooLarge,
];

/// A route that needs nothing; the rows of the table say what differs.
const PLAIN: Route = Route {
    method: "GET",
    path: Shape::Exact(""),
    operation: Operation::Live,
    summary: "",
    query: &[],
    headers: &[],
    body: Body::None,
    room: MAX_BODY_BYTES,
    answers: &[],
    errors: &[],
    open: false,
};

const WRITE_HEADERS: &[HeaderParam] = &[HeaderParam::IfMatch, HeaderParam::IdempotencyKey];
const KEY_HEADER: &[HeaderParam] = &[HeaderParam::IdempotencyKey];

const fn act(verb: Verb, body: &'static str, summary: &'static str) -> Route {
    Route {
        method: "POST",
        path: Shape::Verb(verb.as_str()),
        operation: Operation::Act(verb),
        summary,
        headers: KEY_HEADER,
        body: Body::Optional(body),
        answers: const { &[json(200, "What became of the service.", "Acted")] },
        errors: ACT_ERRORS,
        ..PLAIN
    }
}

const fn act_many(verb: Verb, path: &'static str, body: &'static str, summary: &'static str) -> Route {
    Route {
        method: "POST",
        path: Shape::Exact(path),
        operation: Operation::ActMany(verb),
        summary,
        headers: KEY_HEADER,
        body: Body::Required(body),
        answers: const { &[json(200, "What became of each service; those that failed carry an `error`.", "ActReply")] },
        errors: ACT_ERRORS,
        ..PLAIN
    }
}

/// The tree, what runs, and the server; who is who is in a table of its own.
static ROUTES: &[Route] = &[
    Route {
        path: Shape::Exact("/v1/names/"),
        operation: Operation::Read,
        summary: "All about the root of the tree.",
        query: READ_QUERY,
        answers: &[versioned(200, "The object.", "ReadReply")],
        errors: &[NotFound, Unavailable],
        ..PLAIN
    },
    Route {
        method: "PATCH",
        path: Shape::Exact("/v1/names/"),
        operation: Operation::Patch,
        summary: "Changes fields of the root: a JSON merge patch (RFC 7396), null clears a field.",
        headers: WRITE_HEADERS,
        body: Body::MergePatch("DirectoryPatch"),
        answers: &[versioned(200, "What the change did.", "OpResult")],
        errors: WRITE_ERRORS,
        ..PLAIN
    },
    Route {
        path: Shape::Named("/v1/names/"),
        operation: Operation::Read,
        summary: "All about one object. An alias is shown itself.",
        query: READ_QUERY,
        answers: &[versioned(200, "The object.", "ReadReply")],
        errors: &[InvalidName, NotFound, AliasLoop],
        ..PLAIN
    },
    Route {
        method: "PUT",
        path: Shape::Named("/v1/names/"),
        operation: Operation::Put,
        summary: "Makes an object or replaces its whole declaration. With `If-None-Match: *` only makes it.",
        headers: &[HeaderParam::IfMatch, HeaderParam::IfNoneMatch, HeaderParam::IdempotencyKey],
        body: Body::Required("Spec"),
        answers: &[
            versioned(200, "The object was there; what the change did.", "OpResult"),
            Answer {
                status: 201,
                doc: "The object was made.",
                content: Content::Json("OpResult"),
                headers: &["ETag", "Location"],
            },
        ],
        errors: &[InvalidName, NotFound, AlreadyExists, Conflict, TooLarge, Unsupported, AliasLoop],
        ..PLAIN
    },
    Route {
        method: "PATCH",
        path: Shape::Named("/v1/names/"),
        operation: Operation::Patch,
        summary: "Changes fields of an object: a JSON merge patch (RFC 7396), null clears a field.",
        headers: WRITE_HEADERS,
        body: Body::MergePatch("SpecPatch"),
        answers: &[versioned(200, "What the change did.", "OpResult")],
        errors: WRITE_ERRORS,
        ..PLAIN
    },
    Route {
        method: "DELETE",
        path: Shape::Named("/v1/names/"),
        operation: Operation::Delete,
        summary: "Removes an object.",
        query: &[
            Param {
                name: "recursive",
                kind: K::Bool(false),
                doc: "Its children too; a name with children is a `conflict` without.",
            },
            Param {
                name: "stop",
                kind: K::Bool(false),
                doc: "Stop what runs; a running service is a `conflict` without.",
            },
        ],
        headers: WRITE_HEADERS,
        answers: &[json(200, "What the change did.", "OpResult")],
        errors: WRITE_ERRORS,
        ..PLAIN
    },
    Route {
        path: Shape::Named("/v1/find/"),
        operation: Operation::Find,
        summary: "Where is it? Starts a service when need be and waits until it answers.",
        query: &[
            Param { name: "start", kind: K::Bool(true), doc: "`false` only looks and starts nothing." },
            Param {
                name: "all",
                kind: K::Bool(false),
                doc: "Every instance instead of what the service's `choose` says.",
            },
            CONSISTENT,
            Param {
                name: "timeout",
                kind: K::Span,
                doc: "Bound on the wait, such as `500ms` or `10s`; a bare number is seconds.",
            },
            Param {
                name: "failed",
                kind: K::Instance,
                doc: "An instance that the caller found dead: probed before it is believed.",
            },
        ],
        answers: &[json(200, "Where it is.", "FindReply")],
        errors: ACT_ERRORS,
        ..PLAIN
    },
    Route {
        path: Shape::Exact("/v1/list"),
        operation: Operation::List,
        summary: "Names that match a pattern, sorted, in pages.",
        query: LISTING,
        answers: &[json(200, "One page.", "ListReply")],
        errors: &[InvalidName],
        ..PLAIN
    },
    Route {
        path: Shape::Exact("/v1/status"),
        operation: Operation::Status,
        summary: "Services that match a pattern, with their states and instances.",
        query: LISTING,
        answers: &[json(200, "One page.", "StatusReply")],
        errors: &[InvalidName, NotFound, AliasLoop, Unsupported],
        ..PLAIN
    },
    Route {
        method: "POST",
        path: Shape::Exact("/v1/batch"),
        operation: Operation::Batch,
        summary: "Many changes to the tree, all of them or none.",
        headers: KEY_HEADER,
        body: Body::Required("BatchRequest"),
        answers: &[json(200, "One result for each change, in order.", "BatchReply")],
        errors: &[InvalidName, NotFound, AlreadyExists, Conflict, TooLarge, Unsupported, AliasLoop],
        ..PLAIN
    },
    act(Verb::Launch, "WaitBody", "Starts a service, even one that is manual or held, and waits until it is ready."),
    act(Verb::Stop, "StopBody", "Stops every instance of a service and waits until they have ended."),
    act(Verb::Restart, "WaitBody", "Stops a service and starts it again."),
    act(Verb::Reset, "WaitBody", "Stops a service, forgets its endpoints, clears its restart budget and its hold."),
    act_many(Verb::Launch, "/v1/services:launch", "WaitManyBody", "Starts the services that match patterns."),
    act_many(Verb::Stop, "/v1/services:stop", "StopManyBody", "Stops the services that match patterns."),
    act_many(Verb::Restart, "/v1/services:restart", "WaitManyBody", "Restarts the services that match patterns."),
    act_many(Verb::Reset, "/v1/services:reset", "WaitManyBody", "Resets the services that match patterns."),
    Route {
        method: "POST",
        path: Shape::Verb("advertise"),
        operation: Operation::Advertise,
        summary: "Says where a service answers, or renews that.",
        headers: KEY_HEADER,
        body: Body::Required("AdvertiseBody"),
        answers: &[json(200, "The instance and its credential.", "AdvertiseReply")],
        errors: &[InvalidName, NotFound, Conflict, AliasLoop, Unsupported, TooLarge],
        ..PLAIN
    },
    Route {
        method: "POST",
        path: Shape::Verb("withdraw"),
        operation: Operation::Withdraw,
        summary: "Says that a service does not answer there any more.",
        headers: KEY_HEADER,
        body: Body::Optional("WithdrawBody"),
        answers: &[json(200, "The instances that are gone.", "WithdrawReply")],
        errors: &[InvalidName, NotFound, Conflict, AliasLoop, Unsupported, TooLarge],
        ..PLAIN
    },
    Route {
        method: "POST",
        path: Shape::Verb("report"),
        operation: Operation::Report,
        summary: "What a running copy says of itself: its load, and that it is used.",
        body: Body::Required("ReportBody"),
        answers: &[json(200, "The instance that the report was taken for.", "ReportReply")],
        errors: &[InvalidName, NotFound, NotRunning, AliasLoop, Unsupported, TooLarge],
        ..PLAIN
    },
    Route {
        method: "POST",
        path: Shape::Verb("drain"),
        operation: Operation::Drain,
        summary: "Empties a computer, lets it be used again, or looks how far that is.",
        body: Body::Optional("DrainBody"),
        answers: &[json(200, "The computer's state and what is on it still.", "DrainReply")],
        errors: &[InvalidName, NotFound, AliasLoop, Unsupported, TooLarge],
        ..PLAIN
    },
    Route {
        path: Shape::Exact("/v1/search"),
        operation: Operation::Search,
        summary: "Objects whose attributes fit a filter of RFC 4515, sorted by name, in pages.",
        query: &[
            Param { name: "filter", kind: K::Text, doc: "The filter, such as `(&(kind=service)(team=media))`." },
            Param {
                name: "under",
                kind: K::Text,
                doc: "Only this name and what is beneath it; the whole tree when absent.",
            },
            Param { name: "limit", kind: K::Count(1, 10_000), doc: "At most so many; 1000 when absent." },
            Param { name: "next", kind: K::Text, doc: "The `next` of the page before." },
            CONSISTENT,
        ],
        answers: &[json(200, "One page.", "SearchReply")],
        errors: &[InvalidName, NotFound, TooLarge, Unsupported],
        ..PLAIN
    },
    Route {
        path: Shape::Exact("/v1/watch"),
        operation: Operation::Watch,
        summary: "What changes among the names that match, as server-sent events until the client closes.",
        query: &[
            Param { name: "pattern", kind: K::Text, doc: "Which names; every name when absent." },
            Param {
                name: "from",
                kind: K::Text,
                doc: "Go on after this point: the `id` of an earlier event, or a `revision`. From now on when absent.",
            },
            Param { name: "initial", kind: K::Bool(false), doc: "Tell first what is there, as `present` events." },
        ],
        headers: &[HeaderParam::LastEventId],
        answers: &[Answer {
            status: 200,
            doc: "Events named `present`, `created`, `changed`, `deleted` and `state`, each with the `name` and the `object`; \
                  the `id` is where to go on from. An event `at` without an object tells how far the watch has come; an \
                  event `error` with a problem is the last.",
            content: Content::Events,
            headers: &[],
        }],
        errors: &[InvalidName, Conflict],
        ..PLAIN
    },
    Route {
        method: "PUT",
        path: Shape::Named("/v1/locks/"),
        operation: Operation::Lock,
        summary: "Takes or renews the lock of an object. A record is made when there is none, and goes with the lock.",
        headers: KEY_HEADER,
        body: Body::Optional("LockBody"),
        answers: &[json(200, "The fencing token, and the key when the server chose it.", "LockReply")],
        errors: &[InvalidName, NotFound, Conflict, AliasLoop, Unsupported, TooLarge],
        ..PLAIN
    },
    Route {
        method: "DELETE",
        path: Shape::Named("/v1/locks/"),
        operation: Operation::Unlock,
        summary: "Lets go of a lock with its key, or breaks it.",
        headers: KEY_HEADER,
        body: Body::Optional("UnlockBody"),
        answers: &[json(200, "Whether there was a lock.", "UnlockReply")],
        errors: &[InvalidName, NotFound, Conflict, AliasLoop, Unsupported, TooLarge],
        ..PLAIN
    },
    Route {
        path: Shape::Verb("why"),
        operation: Operation::Why,
        summary: "The story of a service's last starts.",
        answers: &[json(200, "Its state and what happened, oldest first.", "WhyReply")],
        errors: &[InvalidName, NotFound, AliasLoop, Unsupported],
        ..PLAIN
    },
    Route {
        path: Shape::Verb("logs"),
        operation: Operation::Logs,
        summary: "What a service's programs wrote, as they wrote it.",
        query: &[
            Param {
                name: "tail",
                kind: K::Count(0, u32::MAX),
                doc: "Only the last so many lines; everything that is kept when absent.",
            },
            Param {
                name: "follow",
                kind: K::Bool(false),
                doc: "Go on with what is written from now on, until the client closes.",
            },
        ],
        answers: &[text("The log.")],
        errors: &[InvalidName, NotFound, AliasLoop, Unsupported],
        ..PLAIN
    },
    Route {
        path: Shape::Exact("/v1/cluster"),
        operation: Operation::Cluster,
        summary: "About this server and its zone.",
        answers: &[json(200, "The server.", "ServerInfo")],
        ..PLAIN
    },
    Route {
        path: Shape::Exact("/v1/version"),
        operation: Operation::Version,
        summary: "The version of the program.",
        answers: &[json(200, "The version.", "VersionReply")],
        ..PLAIN
    },
    Route {
        path: Shape::Exact("/v1/openapi.json"),
        operation: Operation::OpenApi,
        summary: "This document.",
        answers: &[json(200, "An OpenAPI 3.1 document.", "AnyObject")],
        ..PLAIN
    },
    Route {
        path: Shape::Exact("/v1/byname.proto"),
        operation: Operation::Proto,
        summary: "The gRPC interface on the same port, as a .proto file.",
        answers: &[text("The file.")],
        ..PLAIN
    },
    Route {
        path: Shape::Exact("/v1/identity.proto"),
        operation: Operation::IdentityProto,
        summary: "Its part about who is who; it imports byname/v1/byname.proto.",
        answers: &[text("The file.")],
        ..PLAIN
    },
    Route {
        path: Shape::ErrorCode,
        operation: Operation::ErrorPage,
        summary: "What an error code means: the `type` of a problem leads here.",
        answers: &[json(200, "The code.", "ErrorPage")],
        errors: &[NotFound],
        ..PLAIN
    },
    Route {
        path: Shape::Exact("/livez"),
        operation: Operation::Live,
        summary: "The process answers.",
        answers: &[text("It does.")],
        open: true,
        ..PLAIN
    },
    Route {
        path: Shape::Exact("/readyz"),
        operation: Operation::Ready,
        summary: "The server can do its work.",
        answers: &[text("It can.")],
        errors: &[Unavailable],
        open: true,
        ..PLAIN
    },
    Route {
        path: Shape::Exact("/metrics"),
        operation: Operation::Metrics,
        summary: "Metrics for Prometheus.",
        answers: &[text("Metrics in the text format.")],
        ..PLAIN
    },
];
