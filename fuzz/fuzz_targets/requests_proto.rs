//! Messages of the gRPC interface: decoding, the way into the domain, and back again.
//!
//! The first byte chooses the message.

#![no_main]

use std::fmt::Debug;

use byname_api::access::{AccessReply, AccessRequest};
use byname_api::audit::{AuditReply, AuditRequest};
use byname_api::identity;
use byname_api::object::{Object, Spec};
use byname_api::proto::{self, act_request};
use byname_api::request::{self, Op, Verb};
use byname_name::Name;
use libfuzzer_sys::fuzz_target;
use prost::Message;

fuzz_target!(|data: &[u8]| {
    let Some((choice, bytes)) = data.split_first() else { return };
    match choice % 45 {
        0 => round::<proto::BatchRequest, request::BatchRequest>(bytes),
        1 => round::<proto::Op, Op>(bytes),
        2 => read::<proto::AddRequest, Op>(bytes),
        3 => read::<proto::ModifyRequest, Op>(bytes),
        4 => read::<proto::DeleteRequest, Op>(bytes),
        5 => round::<proto::Spec, Spec>(bytes),
        6 => round::<proto::FindRequest, request::FindRequest>(bytes),
        7 => read::<proto::ReportFailureRequest, request::FindRequest>(bytes),
        8 => round::<proto::SearchRequest, request::SearchRequest>(bytes),
        9 => round::<proto::WatchRequest, request::WatchRequest>(bytes),
        10 => round::<proto::ReadRequest, request::ReadRequest>(bytes),
        11 => round::<proto::ListRequest, request::ListRequest>(bytes),
        12 => round::<proto::WhyRequest, Name>(bytes),
        13 => round::<proto::ReportRequest, request::ReportRequest>(bytes),
        14 => round::<proto::LockRequest, request::LockRequest>(bytes),
        15 => round::<proto::UnlockRequest, request::UnlockRequest>(bytes),
        16 => round::<proto::AdvertiseRequest, request::AdvertiseRequest>(bytes),
        17 => round::<proto::WithdrawRequest, request::WithdrawRequest>(bytes),
        18 => round::<proto::LogsRequest, request::LogsRequest>(bytes),
        19 => {
            if let Ok(message) = proto::ActRequest::decode(bytes) {
                let _ = act_request(Verb::Launch, message);
            }
        }
        // Replies, which a client reads from a server that it need not trust.
        20 => round::<proto::FindReply, request::FindReply>(bytes),
        21 => round::<proto::ReadReply, request::ReadReply>(bytes),
        22 => round::<proto::WatchReply, request::WatchReply>(bytes),
        23 => round::<proto::BatchReply, request::BatchReply>(bytes),
        24 => round::<proto::Object, Object>(bytes),
        25 => round::<proto::ActReply, request::ActReply>(bytes),
        26 => round::<proto::LoginRequest, identity::LoginRequest>(bytes),
        27 => round::<proto::LogoutRequest, identity::LogoutRequest>(bytes),
        28 => round::<proto::EnrolRequest, identity::EnrolRequest>(bytes),
        29 => round::<proto::CertifyRequest, identity::CertifyRequest>(bytes),
        30 => round::<proto::IntroduceRequest, identity::IntroduceRequest>(bytes),
        31 => round::<proto::VerifyRequest, identity::VerifyRequest>(bytes),
        32 => round::<proto::InviteRequest, identity::InviteRequest>(bytes),
        33 => round::<proto::JoinRequest, identity::JoinRequest>(bytes),
        34 => round::<proto::RevokeRequest, identity::RevokeRequest>(bytes),
        35 => round::<proto::AccessRequest, AccessRequest>(bytes),
        36 => round::<proto::AuditRequest, AuditRequest>(bytes),
        37 => round::<proto::LoginReply, identity::LoginReply>(bytes),
        38 => round::<proto::WhoamiReply, identity::WhoamiReply>(bytes),
        39 => round::<proto::EnrolReply, identity::EnrolReply>(bytes),
        40 => round::<proto::IntroduceReply, identity::IntroduceReply>(bytes),
        41 => round::<proto::VerifyReply, identity::VerifyReply>(bytes),
        42 => round::<proto::JoinReply, identity::JoinReply>(bytes),
        43 => round::<proto::AccessReply, AccessReply>(bytes),
        _ => round::<proto::AuditReply, AuditReply>(bytes),
    }
});

fn read<M: Message + Default, D: TryFrom<M>>(bytes: &[u8]) {
    if let Ok(message) = M::decode(bytes) {
        let _ = D::try_from(message);
    }
}

fn round<M, D>(bytes: &[u8])
where
    M: Message + Default + From<D>,
    D: TryFrom<M> + Clone + Debug,
{
    let Some(value) = M::decode(bytes).ok().and_then(|message| D::try_from(message).ok()) else { return };
    let written = M::from(value.clone()).encode_to_vec();
    let again = M::decode(&written[..]).expect("what was written is a message");
    let Ok(again) = D::try_from(again) else { panic!("what was written is refused: {value:?}") };
    assert_eq!(format!("{again:?}"), format!("{value:?}"));
}
