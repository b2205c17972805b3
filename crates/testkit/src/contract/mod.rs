//! What every implementation of `NameService` must do, whoever is behind it.
//!
//! Each case is a function over a [`Fixture`]; [`contract_tests!`](crate::contract_tests) makes a test of each. `node`
//! runs them in process with a [`PlayedAgent`](crate::PlayedAgent), the clerk over the wire with real programs.

pub mod advertise;
pub mod health;
pub mod list;
pub mod locks;
mod programs;
pub mod services;
pub mod tree;
pub mod watch;

use byname_api::error::{Error, Result};
use byname_api::launch::{Launch, Ready};
use byname_api::object::{InstanceId, Kind, Object, Spec, Version};
use byname_api::request::*;
use byname_api::service::Instance;
use byname_api::{Code, NameService};
use byname_name::Name;
use std::sync::Arc;

pub use programs::Programs;

/// A server for one case.
#[async_trait::async_trait]
pub trait Fixture: Send + Sync {
    /// A caller who may do everything.
    fn owner(&self) -> Asker;
    /// A caller who may only look.
    fn onlooker(&self) -> Asker;
    /// How to start a program that behaves so.
    fn launch(&self, program: Program) -> Launch;
    /// Ends a program as `kill -9` does.
    fn kill(&self, pid: u32);
    /// The ticket that an instance of [`Program::Advertises`] was started with, in hex: the program's half and the
    /// server's.
    async fn ticket(&self, instance: InstanceId) -> (String, String);
}

/// How a program behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// Writes two lines, listens on PORT and goes on until SIGTERM.
    Serves,
    /// Writes two lines and exits with status 3.
    Fails,
    /// Writes two lines and never listens.
    Mute,
    /// Takes its ticket and leaves the rest to the test.
    Advertises,
}

impl Program {
    /// Every one.
    pub const ALL: [Program; 4] = [Program::Serves, Program::Fails, Program::Mute, Program::Advertises];

    /// How its agent learns that it is ready.
    pub fn ready(self) -> Ready {
        if self == Program::Advertises { Ready::Advertise } else { Ready::Port }
    }

    /// What it writes.
    pub fn lines(self) -> [&'static str; 2] {
        ["opening the index", if self == Program::Fails { "the index is broken" } else { "the index is open" }]
    }
}

/// A caller and the service that it asks, with the words that cases are written in.
#[derive(Clone)]
pub struct Asker {
    /// What is asked.
    pub service: Arc<dyn NameService>,
    /// Who asks.
    pub cx: Context,
}

impl Asker {
    /// A plain find.
    pub async fn find(&self, name: &str) -> Result<FindReply> {
        self.find_with(FindRequest::new(at(name))).await
    }

    /// A find that only looks.
    pub async fn look(&self, name: &str) -> Result<FindReply> {
        self.find_with(FindRequest { start: false, ..FindRequest::new(at(name)) }).await
    }

    /// Any find.
    pub async fn find_with(&self, request: FindRequest) -> Result<FindReply> {
        self.service.find(&self.cx, request).await
    }

    /// `show`.
    pub async fn read(&self, name: &str) -> Result<Object> {
        let request = ReadRequest { name: at(name), consistent: false };
        self.service.read(&self.cx, request).await.map(|reply| reply.object)
    }

    /// Adds an object.
    pub async fn add(&self, name: &str, spec: Spec) -> Result<Version> {
        self.change(Op::Add { name: at(name), spec }).await.map(|result| result.version)
    }

    /// One change.
    pub async fn change(&self, op: Op) -> Result<OpResult> {
        let mut reply = self.batch(vec![op]).await?;
        Ok(reply.results.remove(0))
    }

    /// Several changes.
    pub async fn batch(&self, ops: Vec<Op>) -> Result<BatchReply> {
        self.service.batch(&self.cx, BatchRequest { ops, ..BatchRequest::default() }).await
    }

    /// The names that match.
    pub async fn names(&self, pattern: &str) -> Result<Vec<String>> {
        let reply = self.service.list(&self.cx, ListRequest::new(pattern)).await?;
        Ok(reply.entries.iter().map(|entry| entry.name.to_string()).collect())
    }

    /// Launches, stops, restarts or resets.
    pub async fn act(&self, verb: Verb, pattern: &str) -> Result<Vec<Acted>> {
        let request = ActRequest { verb, patterns: vec![pattern.into()], hold: false, now: false, timeout: None };
        self.service.act(&self.cx, request).await.map(|reply| reply.services)
    }

    /// Does that to one service, which must go well.
    ///
    /// # Panics
    ///
    /// When it does not.
    pub async fn acted(&self, verb: Verb, name: &str) -> Acted {
        let mut services = self.act(verb, name).await.unwrap_or_else(|e| panic!("{} {name}: {e}", verb.as_str()));
        let acted = services.remove(0);
        assert!(services.is_empty() && acted.error.is_none(), "{acted:?}");
        acted
    }

    /// The state of one service.
    ///
    /// # Panics
    ///
    /// When it is not there.
    pub async fn status(&self, name: &str) -> byname_api::object::ServiceStatus {
        let reply =
            self.service.status(&self.cx, ListRequest::new(name)).await.unwrap_or_else(|e| panic!("{name}: {e}"));
        reply.services.into_iter().next().unwrap_or_else(|| panic!("{name} has no status"))
    }

    /// The same caller with this request id.
    pub fn with(&self, request: RequestId) -> Asker {
        Asker { service: self.service.clone(), cx: Context { request: Some(request), ..self.cx.clone() } }
    }
}

/// The name.
pub(crate) fn at(name: &str) -> Name {
    Name::parse(name).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// A record's declaration.
pub(crate) fn record(value: &str) -> Spec {
    Spec { value: Some(value.into()), ..Spec::of(Kind::Record) }
}

/// An alias's declaration.
pub(crate) fn alias(target: &str) -> Spec {
    Spec { target: Some(at(target)), ..Spec::of(Kind::Alias) }
}

/// A service's declaration.
pub(crate) fn service(launch: Launch) -> Spec {
    Spec { launch: Some(launch), ..Spec::of(Kind::Service) }
}

/// The error's code and field, of a result that must be one.
#[track_caller]
pub(crate) fn refused<T: std::fmt::Debug>(result: Result<T>, code: Code, field: Option<&str>) -> Error {
    let error = result.expect_err("it must be refused");
    assert_eq!((error.code(), error.at_field()), (code, field), "{error}");
    error
}

/// The only instance of an answer.
#[track_caller]
pub(crate) fn only(reply: &FindReply) -> &Instance {
    assert_eq!(reply.instances.len(), 1, "{reply:?}");
    &reply.instances[0]
}

/// One test for each case, on a fixture that this expression makes (it may await).
#[macro_export]
macro_rules! contract_tests {
    ($fixture:expr) => {
        $crate::contract_tests! { @ $fixture;
            tree:
            an_added_object_reads_back, names_are_the_same_in_any_case, missing_parents_become_directories,
            a_taken_name_is_refused, a_batch_is_all_or_nothing, a_dry_run_changes_nothing,
            put_replaces_and_declare_changes_what_it_says, modify_sets_and_clears, a_stale_version_is_a_conflict,
            a_retried_write_is_applied_once, a_name_with_children_goes_with_recursive_only,
            a_name_used_again_is_another_object, every_kind_answers_in_its_way, aliases_lead_on_and_are_shown_themselves,
            alias_loops_are_refused, wrong_declarations_name_the_field, too_large_is_said, an_onlooker_may_only_look;
            list:
            lists_are_sorted_and_match_patterns, pages_give_every_name_once, wrong_patterns_are_refused,
            a_set_lists_what_it_declared, status_is_of_services_and_follows_aliases;
            services:
            find_starts_and_then_answers, fifty_finds_are_one_start, looking_starts_nothing, manual_waits_for_launch,
            a_failed_start_gives_its_last_lines, a_spent_budget_is_crash_looping_until_reset,
            never_ready_is_a_start_timeout, a_killed_program_is_found_anew, a_living_instance_is_believed,
            held_stays_stopped_until_launch, restart_gives_another_process, one_act_tells_each_service,
            a_find_is_bounded, always_runs_without_being_asked, copies_are_kept, no_host_fits,
            a_running_service_is_deleted_with_stop_only, why_tells_the_story, logs_give_what_was_written;
            advertise:
            an_advertised_name_is_found_until_withdrawn, a_lease_that_is_not_renewed_ends, a_credential_renews_one_instance,
            a_ticket_is_good_once, wrong_endpoints_name_the_field;
            health:
            reported_health_counts, who_does_not_report_in_time_is_critical, health_is_reported_by_whoever_may,
            wrong_checks_name_the_field;
            locks:
            a_lock_has_one_holder, a_lock_that_is_asked_for_again_is_the_same, a_lock_ends_with_its_lease,
            a_lock_is_waited_for, a_batch_checks_what_it_takes_for_granted, loads_are_reported_and_chosen_by,
            what_nobody_uses_stops;
            watch:
            a_watch_tells_what_changes, a_watch_goes_on_where_it_ended, a_watch_may_begin_with_what_is_there,
            a_watch_tells_states, wrong_watches_are_refused, a_watcher_that_does_not_read_holds_nobody_up,
            searches_find_what_fits, searches_come_in_pages;
        }
    };
    (@ $fixture:expr; $($module:ident: $($case:ident),*;)*) => { $( mod $module {
        #[allow(unused_imports)]
        use super::*;
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let fixture = $fixture;
                $crate::contract::$module::$case(&fixture).await;
            }
        )*
    } )* };
}
