//! What was answered is kept: through `kill -9`, damaged files and full disks; and programs go on meanwhile.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use byname_api::caller::Caller;
use byname_api::object::{Kind, Spec};
use byname_api::request::{BatchRequest, Context, FindRequest, Op};
use byname_api::{Code, NameService};
use byname_client::{Clerk, Options};
use byname_name::Name;
use byname_testkit::{Server, alive, eventually, kill, run, running_with};

fn server() -> Server {
    Server::start(env!("CARGO_BIN_EXE_byname"))
}

/// Listens on its port, and notes every start in a file.
const SERVE: &str = "import os, socket, sys
if len(sys.argv) > 1: open(sys.argv[1], 'a').write('started\\n')
listener = socket.create_server(('127.0.0.1', int(os.environ['PORT'])))
while True: listener.accept()
";

fn add_service(server: &Server, name: &str, more: &[&str]) {
    fs::write(server.scratch().join("serve.py"), SERVE).unwrap();
    let starts = server.scratch().join("starts");
    let words = [&["add", name], more, &["--", "python3", "-IS", "./serve.py", starts.to_str().unwrap()]].concat();
    assert_eq!(server.byname(&words).status, 0);
}

fn starts(server: &Server) -> usize {
    fs::read_to_string(server.scratch().join("starts")).unwrap_or_default().lines().count()
}

fn pid_of(server: &Server, name: &str) -> u32 {
    let found = server.byname(&["find", "-o", "json", name]).json();
    u32::try_from(found["instances"][0]["pid"].as_u64().unwrap()).unwrap()
}

fn record(name: &Name, value: &str) -> BatchRequest {
    let spec = Spec { value: Some(value.into()), ..Spec::of(Kind::Record) };
    BatchRequest::of(Op::Put { name: name.clone(), spec, if_version: None })
}

/// Eight clients, each of which writes one record after the other and notes what was answered.
struct Writers {
    answered: Arc<Answered>,
    stop: Arc<AtomicBool>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

/// The newest value of each record that the server said it has.
#[derive(Default)]
struct Answered {
    count: AtomicU64,
    values: Mutex<BTreeMap<Name, u64>>,
}

impl Writers {
    fn begin(url: &str, round: usize, answered: Arc<Answered>) -> Writers {
        let stop = Arc::new(AtomicBool::new(false));
        let write = |writer: usize| {
            // No patience: an answer that does not come is no answer.
            let options = Options { patience: Duration::ZERO, ..Options::default() };
            let clerk = Clerk::connect(url, options).unwrap();
            let (stop, answered) = (stop.clone(), answered.clone());
            tokio::spawn(async move {
                let cx = Context::of(Caller::internal());
                for value in 0.. {
                    // New names and changed ones.
                    let name = Name::parse(&format!("/w/{round}/{writer}/{}", value % 50)).unwrap();
                    match clerk.batch(&cx, record(&name, &value.to_string())).await {
                        Ok(_) => {
                            answered.values.lock().unwrap().insert(name, value);
                            answered.count.fetch_add(1, Ordering::SeqCst);
                        }
                        Err(_) => return,
                    }
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                }
            })
        };
        let tasks = (0..8).map(write).collect();
        Writers { answered, stop, tasks }
    }

    async fn end(self) {
        self.stop.store(true, Ordering::SeqCst);
        for task in self.tasks {
            task.await.unwrap();
        }
    }

    /// Returns once so many more writes were answered: the moment of the kill, a different one each round.
    fn wait_for(&self, more: u64) {
        let enough = self.answered.count.load(Ordering::SeqCst) + more;
        eventually("writes", || (self.answered.count.load(Ordering::SeqCst) >= enough).then_some(()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn killed_while_eight_write_nothing_answered_is_lost_and_programs_go_on() {
    let mut server = server();
    add_service(&server, "/BVODS/QS", &[]);
    let pid = pid_of(&server, "/BVODS/QS");
    let answered = Arc::new(Answered::default());
    for (round, more) in [1, 37, 110, 260, 73].into_iter().enumerate() {
        let writers = Writers::begin(&server.url(), round, answered.clone());
        writers.wait_for(more);
        server.kill();
        writers.end().await;
        server.start_again();
        assert_eq!(pid_of(&server, "/BVODS/QS"), pid, "round {round}: adopted");
    }
    let clerk = Clerk::connect(&server.url(), Options::default()).unwrap();
    let cx = Context::of(Caller::internal());
    let values = std::mem::take(&mut *answered.values.lock().unwrap());
    for (name, value) in values {
        let found = clerk.find(&cx, FindRequest::new(name.clone())).await.unwrap_or_else(|e| panic!("{name}: {e}"));
        // A write whose answer was cut off may be there as well: it is newer.
        let kept: u64 = found.value.unwrap().parse().unwrap();
        assert!(kept >= value, "{name} is {kept}, and {value} was answered");
    }
    assert!(alive(pid));
    assert_eq!(starts(&server), 1);
}

#[test]
fn a_start_that_a_kill_cuts_off_is_not_doubled() {
    let mut server = server();
    add_service(&server, "/BVODS/QS", &[]);
    let mark = server.scratch().join("starts").display().to_string();
    // From before the order is logged to after the program is ready.
    for round in 0..6 {
        let ordered_before =
            server.byname(&["status", "-o", "json", "/BVODS/QS"]).json()["services"][0]["starts"].as_u64();
        let ordered_before = ordered_before.unwrap();
        let mut finding = server.command(&["find", "/BVODS/QS"]);
        let finding = std::thread::spawn(move || run(&mut finding, ""));
        match round % 3 {
            0 => {}
            1 => eventually("an order", || ordered(&server, "/BVODS/QS", ordered_before)),
            _ => eventually("a program", || (!running_with(&mark).is_empty()).then_some(())),
        }
        server.kill();
        server.start_again();
        // A find that was on its way asks again by itself; the first may not have reached the server at all.
        let found = finding.join().unwrap();
        assert!(found.status == 0 || round % 3 == 0, "round {round}: {}", found.talk);
        let pid = pid_of(&server, "/BVODS/QS");
        assert_eq!(running_with(&mark), [pid], "round {round}");
        server.byname(&["stop", "--now", "/BVODS/QS"]).lines();
        assert!(running_with(&mark).is_empty(), "round {round}");
    }
}

/// Whether the service was ordered to start more often than this.
fn ordered(server: &Server, name: &str, starts: u64) -> Option<()> {
    let status = server.byname(&["status", "-o", "json", name]);
    let status: serde_json::Value = serde_json::from_str(&status.out).ok()?;
    (status["services"][0]["starts"].as_u64()? > starts).then_some(())
}

#[test]
fn fifty_finds_at_once_of_a_stopped_service_start_it_once() {
    let server = server();
    add_service(&server, "/BVODS/QS", &[]);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let pids = runtime.block_on(async {
        let finds: Vec<_> = (0..50)
            .map(|_| {
                let clerk = Clerk::connect(&server.url(), Options::default()).unwrap();
                tokio::spawn(async move {
                    let request = FindRequest::new(Name::parse("/BVODS/QS").unwrap());
                    let found = clerk.find(&Context::of(Caller::internal()), request).await.unwrap();
                    found.instances[0].pid.unwrap()
                })
            })
            .collect();
        let mut pids = std::collections::BTreeSet::new();
        for find in finds {
            pids.insert(find.await.unwrap());
        }
        pids
    });
    assert_eq!((pids.len(), starts(&server)), (1, 1));
}

#[test]
fn ready_in_well_under_a_second() {
    let mut server = server();
    server.kill();
    // The best of some, because other tests run at the same time.
    let start = |_| {
        let took = server.start_again();
        server.kill();
        took
    };
    let best = (0..5).map(start).min().unwrap();
    assert!(best < Duration::from_millis(800), "{best:?}");
}

#[test]
fn sigterm_ends_it_cleanly_and_programs_go_on() {
    let mut server = server();
    add_service(&server, "/BVODS/QS", &[]);
    let pid = pid_of(&server, "/BVODS/QS");
    assert_eq!(server.terminate(), 0);
    assert!(alive(pid));
    assert!(!server.data().join("endpoints.json").exists());
    server.start_again();
    assert_eq!((pid_of(&server, "/BVODS/QS"), starts(&server)), (pid, 1));
    server.byname(&["stop", "/BVODS/QS"]).lines();
    assert!(!alive(pid));
}

#[test]
fn how_a_program_ended_while_nobody_watched_is_known_afterwards() {
    let mut server = server();
    let go = server.scratch().join("go");
    let script = format!(
        "import os, socket, sys, time\n\
         listener = socket.create_server(('127.0.0.1', int(os.environ['PORT'])))\n\
         while not os.path.exists('{}'): time.sleep(0.01)\n\
         print('the disk is on fire', flush=True); sys.exit(7)\n",
        go.display()
    );
    fs::write(server.scratch().join("ends.py"), script).unwrap();
    assert_eq!(server.byname(&["add", "/ends", "--", "python3", "-IS", "./ends.py"]).status, 0);
    let pid = pid_of(&server, "/ends");
    server.kill();
    fs::write(go, "").unwrap();
    eventually("the end of the program", || (!alive(pid)).then_some(()));
    server.start_again();
    let story =
        eventually("the news", || Some(server.byname(&["why", "/ends"]).out).filter(|t| t.contains("status 7")));
    assert!(story.contains("the disk is on fire"), "{story}");
}

#[test]
fn a_program_killed_while_nobody_watched_is_found_anew() {
    let mut server = server();
    add_service(&server, "/BVODS/QS", &[]);
    let pid = pid_of(&server, "/BVODS/QS");
    server.kill();
    kill(pid);
    eventually("the end of the program", || (!alive(pid)).then_some(()));
    server.start_again();
    let another = eventually("another process", || Some(pid_of(&server, "/BVODS/QS")).filter(|p| *p != pid));
    assert!(alive(another));
    assert_eq!(starts(&server), 2);
}

/// The files of the log, the oldest first.
fn log_files(server: &Server) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(server.data().join("log/log")).unwrap().map(|f| f.unwrap().path()).collect();
    files.sort();
    files
}

fn with_records(server: &Server) {
    for n in 0..20 {
        assert_eq!(server.byname(&["add", &format!("/r/{n}"), "--value", &"v".repeat(200)]).status, 0);
    }
}

#[test]
fn a_torn_tail_is_cut_off() {
    let mut server = server();
    with_records(&server);
    server.kill();
    let file = log_files(&server).pop().unwrap();
    let whole = written(&file);
    // Half of the last entry never reached the disk.
    fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(whole - 30).unwrap();
    server.start_again();
    assert_eq!(server.byname(&["list", "-o", "name", "/r/*"]).lines().len(), 19);
    assert_eq!(server.byname(&["add", "/r/again", "--value", "1"]).status, 0);
    server.kill();
    server.start_again();
    assert_eq!(server.byname(&["find", "/r/again"]).lines(), ["1"]);
}

/// How much of a file is not blank behind.
fn written(file: &Path) -> u64 {
    let bytes = fs::read(file).unwrap();
    bytes.iter().rposition(|b| *b != 0).map_or(0, |at| at as u64 + 1)
}

#[test]
fn a_damaged_middle_is_refused_with_the_way_out() {
    let mut server = server();
    with_records(&server);
    server.kill();
    let file = log_files(&server).remove(0);
    let mut bytes = fs::read(&file).unwrap();
    let middle = written(&file) as usize / 2;
    bytes[middle] ^= 0x40;
    fs::write(&file, &bytes).unwrap();
    let ended = server.try_start().unwrap_err();
    assert_ne!(ended.status, 0);
    for part in [file.to_str().unwrap(), "damaged at byte"] {
        assert!(ended.talk.contains(part), "{part}: {}", ended.talk);
    }
    // The file is as it was: nothing was cut off or overwritten.
    assert_eq!(fs::read(&file).unwrap(), bytes);
    bytes[middle] ^= 0x40;
    fs::write(&file, &bytes).unwrap();
    server.start_again();
    assert_eq!(server.byname(&["list", "-o", "name", "/r/*"]).lines().len(), 20);
}

#[test]
fn one_data_directory_has_one_server() {
    let server = server();
    let second = server.command(&["dev", "--listen", "127.0.0.1:0", "--data", server.data().to_str().unwrap()]);
    let ended = run(&mut { second }, "");
    assert_eq!(ended.status, 5, "{}", ended.talk);
    assert!(ended.talk.contains(&format!("pid {}", server.pid())), "{}", ended.talk);
    assert_eq!(server.byname(&["list", "-o", "name"]).status, 0);
}

/// A file system with room for two files of the log, 16 MiB each. Needs root; nobody else may mount.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Option<SmallDisk> {
        let folder = tempfile::tempdir().unwrap();
        let mut mount = std::process::Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=40m", "none"]).arg(folder.path());
        let mounted = run(&mut mount, "");
        if mounted.status != 0 {
            eprintln!("skipped: a small file system cannot be mounted here: {}", mounted.talk);
            return None;
        }
        Some(SmallDisk(folder))
    }

    fn fill(&self) -> PathBuf {
        let file = self.0.path().join("filler");
        let mut filler = fs::File::create(&file).unwrap();
        let block = vec![1; 4096];
        while std::io::Write::write_all(&mut filler, &block).is_ok() {}
        file
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = run(std::process::Command::new("umount").arg("-l").arg(self.0.path()), "");
    }
}

#[test]
fn on_a_full_disk_reads_go_on_and_writes_do_when_there_is_room_again() {
    let Some(disk) = SmallDisk::mount() else { return };
    let data = disk.0.path().join("data");
    let options = byname_testkit::Options { data: Some(data), ..byname_testkit::Options::default() };
    let mut server = Server::start_with(env!("CARGO_BIN_EXE_byname"), options);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let clerk = Clerk::connect(&server.url(), Options { patience: Duration::ZERO, ..Options::default() }).unwrap();
    let cx = Context::of(Caller::internal());
    let value = "v".repeat(900_000);
    let write = |n: usize| {
        let name = Name::parse(&format!("/r/{n}")).unwrap();
        runtime.block_on(clerk.batch(&cx, record(&name, &value)))
    };
    let filler = disk.fill();
    let mut answered = 0;
    // The file that is there was made in its full length and holds a few more.
    let refused = loop {
        match write(answered) {
            Ok(_) => answered += 1,
            Err(error) => break error,
        }
        assert!(answered < 500, "the disk does not get full");
    };
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    assert_eq!(write(answered).unwrap_err().code(), Code::Unavailable);
    assert_eq!(server.byname(&["list", "-o", "name", "/r/*"]).out.lines().count(), answered);
    fs::remove_file(filler).unwrap();
    eventually("room for writes", || write(answered).ok());
    answered += 1;
    server.kill();
    server.start_again();
    let names = server.byname(&["list", "-o", "name", "/r/*"]);
    assert_eq!(names.out.lines().count(), answered, "{}", names.talk);
    drop(server);
}
