//! Messages that hold a secret, and how `{:?}` shows them: by their names alone. `build.rs` leaves out what would be
//! generated.

use std::fmt;

use super::*;

macro_rules! hidden {
    ($($message:path),* $(,)?) => { $(
        impl fmt::Debug for $message {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($message), " { .. }"))
            }
        }
    )* };
}

hidden!(
    AdvertiseReply,
    AdvertiseRequest,
    CertifyReply,
    EnrolReply,
    enrol_reply::Challenge,
    enrol_reply::Credentials,
    enrol_reply::Done,
    enrol_reply::Page,
    enrol_reply::Step,
    EnrolRequest,
    enrol_request::List,
    enrol_request::PasskeyFinish,
    enrol_request::PasskeyPage,
    enrol_request::PasskeyRemove,
    enrol_request::PasskeyStart,
    enrol_request::PasswordFinish,
    enrol_request::PasswordRemove,
    enrol_request::PasswordStart,
    enrol_request::Step,
    IntroduceReply,
    InviteReply,
    JoinReply,
    JoinRequest,
    LockReply,
    LockRequest,
    LoginReply,
    login_reply::Challenge,
    login_reply::HandedOver,
    login_reply::Page,
    login_reply::Pending,
    login_reply::Session,
    login_reply::Step,
    LoginRequest,
    login_request::Instance,
    login_request::PagePoll,
    login_request::PageStart,
    login_request::PasskeyFinish,
    login_request::PasskeyStart,
    login_request::PasswordFinish,
    login_request::PasswordStart,
    login_request::Step,
    ReportRequest,
    Spec,
    UnlockRequest,
    VerifyReply,
    VerifyRequest,
    WithdrawRequest,
);
