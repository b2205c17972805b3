//! The part of the table about who is who, what they may do and what they did; and the pages for browsers.

use super::*;

/// Bytes of body for whoever is not known yet, and for what is as small.
const IDENTITY_BYTES: usize = 64 << 10;

const ACCESS: &[Param] = &[
    Param {
        name: "who",
        kind: K::Text,
        doc: "Who would ask: a name, `authenticated`, `anyone` or `uid:NUMBER`; the caller when absent.",
    },
    Param {
        name: "right",
        kind: K::Word(&["find", "list", "read", "add", "modify", "delete", "launch", "advertise", "admin"]),
        doc: "Which right; all of them when absent.",
    },
];

const AUDIT: &[Param] = &[
    Param { name: "by", kind: K::Text, doc: "Exactly this principal." },
    Param { name: "name", kind: K::Text, doc: "A pattern for the name; records without a name do not fit." },
    Param { name: "operation", kind: K::Text, doc: "Exactly this operation." },
    Param { name: "outcome", kind: K::Word(&["ok", "denied", "unauthenticated", "failed"]), doc: "How it ended." },
    Param { name: "since", kind: K::Time, doc: "Not before." },
    Param { name: "until", kind: K::Time, doc: "Not after." },
    Param { name: "limit", kind: K::Count(1, 1_000), doc: "At most so many; 100 when absent." },
    Param { name: "next", kind: K::Text, doc: "The `next` of the page before." },
    Param { name: "verify", kind: K::Bool(false), doc: "Verify the whole log too, which takes a while." },
];

const fn page(doc: &'static str, content_type: &'static str) -> Answer {
    Answer { status: 200, doc, content: Content::Page(content_type), headers: &[] }
}

/// These routes.
pub(super) static ROUTES: &[Route] = &[
    Route {
        method: "POST",
        path: Shape::Exact("/v1/login"),
        operation: Operation::Login,
        summary: "One step of signing in. Who asks is not known yet.",
        body: Body::Required("LoginRequest"),
        room: IDENTITY_BYTES,
        answers: &[json(200, "What comes next, or the session.", "LoginReply")],
        errors: &[InvalidName, Unsupported],
        ..PLAIN
    },
    Route {
        method: "POST",
        path: Shape::Exact("/v1/logout"),
        operation: Operation::Logout,
        summary: "Ends the session of this call, or every session of a principal.",
        headers: KEY_HEADER,
        body: Body::Optional("LogoutRequest"),
        room: IDENTITY_BYTES,
        answers: &[json(200, "It is done.", "Done")],
        errors: &[InvalidName, NotFound, Unsupported],
        ..PLAIN
    },
    Route {
        path: Shape::Exact("/v1/whoami"),
        operation: Operation::Whoami,
        summary: "Who the caller is taken for.",
        answers: &[json(200, "The principal and how it proved that.", "WhoamiReply")],
        errors: &[Unsupported],
        ..PLAIN
    },
    Route {
        method: "POST",
        path: Shape::Exact("/v1/enrol"),
        operation: Operation::Enrol,
        summary: "One step of giving a principal a way to prove itself, or taking one away.",
        headers: KEY_HEADER,
        body: Body::Required("EnrolRequest"),
        room: IDENTITY_BYTES,
        answers: &[json(200, "What comes next.", "EnrolReply")],
        errors: &[InvalidName, NotFound, Conflict, Unsupported],
        ..PLAIN
    },
    Route {
        method: "POST",
        path: Shape::Exact("/v1/certify"),
        operation: Operation::Certify,
        summary: "Gives a certificate for a key, or a token.",
        body: Body::Required("CertifyRequest"),
        room: IDENTITY_BYTES,
        answers: &[json(200, "The certificate.", "CertifyReply")],
        errors: &[InvalidName, NotFound, Conflict, Unsupported],
        ..PLAIN
    },
    Route {
        path: Shape::Exact("/v1/trust"),
        operation: Operation::Trust,
        summary: "What others need to check this trust domain's certificates and tokens.",
        answers: &[json(200, "The root certificates.", "TrustReply")],
        errors: &[Unsupported],
        ..PLAIN
    },
    Route {
        method: "POST",
        path: Shape::Exact("/v1/introduce"),
        operation: Operation::Introduce,
        summary: "Introduces the caller to a service that still holds its ticket.",
        headers: KEY_HEADER,
        body: Body::Required("IntroduceRequest"),
        room: IDENTITY_BYTES,
        answers: &[json(200, "The client's end of the pair.", "IntroduceReply")],
        errors: &[InvalidName, NotFound, NotRunning, AliasLoop, Conflict, Unsupported],
        ..PLAIN
    },
    Route {
        method: "POST",
        path: Shape::Exact("/v1/verify"),
        operation: Operation::Verify,
        summary: "Tells a service who showed it a ticket.",
        headers: KEY_HEADER,
        body: Body::Required("VerifyRequest"),
        room: IDENTITY_BYTES,
        answers: &[json(200, "The service's end of the pair.", "VerifyReply")],
        errors: &[NotFound, Conflict, Unsupported],
        ..PLAIN
    },
    Route {
        method: "POST",
        path: Shape::Exact("/v1/invite"),
        operation: Operation::Invite,
        summary: "Gives a join token.",
        headers: KEY_HEADER,
        body: Body::Required("InviteRequest"),
        room: IDENTITY_BYTES,
        answers: &[json(200, "The token.", "InviteReply")],
        errors: &[InvalidName, Conflict, Unsupported],
        ..PLAIN
    },
    Route {
        method: "POST",
        path: Shape::Exact("/v1/join"),
        operation: Operation::Join,
        summary: "Uses a join token. Who asks is not known yet.",
        headers: KEY_HEADER,
        body: Body::Required("JoinRequest"),
        room: IDENTITY_BYTES,
        answers: &[json(200, "The certificate of the computer that joined.", "JoinReply")],
        errors: &[InvalidName, Conflict, Unsupported],
        ..PLAIN
    },
    Route {
        method: "POST",
        path: Shape::Exact("/v1/revoke"),
        operation: Operation::Revoke,
        summary: "Takes trust away from an instance or a principal. In effect when it is answered.",
        headers: KEY_HEADER,
        body: Body::Required("RevokeRequest"),
        room: IDENTITY_BYTES,
        answers: &[json(200, "It is done.", "Done")],
        errors: &[InvalidName, NotFound, Conflict, Unsupported],
        ..PLAIN
    },
    Route {
        path: Shape::Exact("/v1/access/"),
        operation: Operation::Access,
        summary: "Who may do what with the root of the tree, and why.",
        query: ACCESS,
        answers: &[json(200, "One decision a right.", "AccessReply")],
        errors: &[InvalidName, Unsupported],
        ..PLAIN
    },
    Route {
        path: Shape::Named("/v1/access/"),
        operation: Operation::Access,
        summary: "Who may do what with a name, and why. The name need not exist.",
        query: ACCESS,
        answers: &[json(200, "One decision a right.", "AccessReply")],
        errors: &[InvalidName, AliasLoop, Unsupported],
        ..PLAIN
    },
    Route {
        path: Shape::Exact("/v1/audit"),
        operation: Operation::Audit,
        summary: "Who did what, when, and what proved it: records, newest first, in pages.",
        query: AUDIT,
        answers: &[json(200, "One page.", "AuditReply")],
        errors: &[InvalidName, Unsupported],
        ..PLAIN
    },
    Route {
        path: Shape::Exact("/login"),
        operation: Operation::Page(Page::Login),
        summary: "Where somebody signs in for a command line.",
        answers: &[page("The page.", "text/html")],
        open: true,
        ..PLAIN
    },
    Route {
        path: Shape::Exact("/enrol"),
        operation: Operation::Page(Page::Enrol),
        summary: "Where somebody makes a passkey.",
        answers: &[page("The page.", "text/html")],
        open: true,
        ..PLAIN
    },
    Route {
        path: Shape::Exact("/assets/sign-in.js"),
        operation: Operation::Page(Page::Script),
        summary: "What both pages do.",
        answers: &[page("The script.", "text/javascript")],
        open: true,
        ..PLAIN
    },
    Route {
        path: Shape::Exact("/assets/sign-in.css"),
        operation: Operation::Page(Page::Style),
        summary: "How both pages look.",
        answers: &[page("The style.", "text/css")],
        open: true,
        ..PLAIN
    },
];
