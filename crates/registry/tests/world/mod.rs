//! A registry for tests, to which every command comes in its stored form.
#![allow(dead_code, missing_docs, unreachable_pub)]

use byname_api::error::Code;
use byname_api::launch::Launch;
use byname_api::object::{InstanceId, Kind, ObjectId, Spec};
use byname_api::request::{Op, Outcome, RequestId};
use byname_api::service::{Endpoint, Exit, State};
use byname_api::span::Timestamp;
use byname_name::Name;
use byname_registry::command::{Change, Order};
use byname_registry::query::{self, Outlook, Wants};
use byname_registry::{Command, Entry, Event, Registry, Reply, stored};

pub struct World {
    pub registry: Registry,
    pub now: u64,
    pub events: Vec<Event>,
}

impl World {
    pub fn new() -> Self {
        World { registry: Registry::default(), now: 1_000_000, events: Vec::new() }
    }

    pub fn run_as(&mut self, request: Option<RequestId>, command: Command) -> Reply {
        self.now += 10;
        let entry = Entry { at: Timestamp(self.now), by: "liu".into(), request, command };
        // Everything goes through its stored form, as it does on its way through the log.
        let entry = stored::decode_command(&stored::encode_command(&entry)).unwrap();
        let reply = self.registry.apply(&entry, &mut self.events);
        assert_eq!(stored::decode_reply(&stored::encode_reply(&reply)).unwrap(), reply);
        reply
    }

    pub fn run(&mut self, command: Command) -> Reply {
        self.run_as(None, command)
    }

    pub fn batch(&mut self, ops: Vec<Op>) -> Result<Vec<Outcome>, Code> {
        match self.run(Command::Batch { ops, set: None }) {
            Reply::Batch(reply) => Ok(reply.results.into_iter().map(|r| r.outcome).collect()),
            Reply::Refused(error) => Err(error.code()),
            other => panic!("{other:?}"),
        }
    }

    pub fn add(&mut self, text: &str, spec: Spec) -> ObjectId {
        self.batch(vec![Op::Add { name: name(text), spec }]).unwrap();
        self.registry.tree().get(&name(text)).unwrap().id
    }

    pub fn service(&mut self, text: &str) -> ObjectId {
        self.add(text, service("program = 'p'"))
    }

    pub fn order(&mut self, service: ObjectId, instance: u64) -> Reply {
        self.run(Command::Order(Order {
            service,
            instance: InstanceId(instance),
            computer: name("/computers/bugs-bunny"),
            ticket: [1; 32],
            proof: [2; 32],
            wanted: 1,
            why: "asked for".into(),
        }))
    }

    pub fn report(&mut self, instance: u64, change: Change) {
        assert_eq!(self.run(Command::Report { instance: InstanceId(instance), change }), Reply::Done);
    }

    pub fn ready(&mut self, instance: u64) {
        self.report(instance, Change::Ready { pid: Some(7), endpoints: vec![endpoint(1234)] });
    }

    pub fn ended(&mut self, instance: u64, exit: Exit) {
        self.report(instance, Change::Ended { exit, last_lines: "boom".into(), error: None, ordered: false });
    }

    pub fn find(&self, text: &str) -> Outlook {
        let wants = Wants { start: true, may_start: true, force: false, all: false, turn: 0 };
        query::find(self.registry.tree(), &name(text), wants, &()).unwrap()
    }

    pub fn refusal(&self, text: &str) -> Code {
        match self.find(text) {
            Outlook::Refuse(error) => error.code(),
            other => panic!("{other:?}"),
        }
    }

    pub fn state(&self, text: &str) -> State {
        query::service_status(self.registry.tree(), &self.registry.tree().get(&name(text)).unwrap()).unwrap().state
    }
}

pub fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

pub fn endpoint(port: u16) -> Endpoint {
    Endpoint { protocol: "tcp".into(), address: String::new(), port }
}

pub fn service(launch: &str) -> Spec {
    Spec { launch: Some(toml::from_str::<Launch>(launch).unwrap()), ..Spec::of(Kind::Service) }
}

pub fn alias(target: &str) -> Spec {
    Spec { target: Some(name(target)), ..Spec::of(Kind::Alias) }
}

pub fn record(value: &str) -> Spec {
    Spec { value: Some(value.into()), ..Spec::of(Kind::Record) }
}
