//! Order, bounds and ends of the disk thread.

use super::*;
use crate::transfer::job::FileId;
use std::sync::mpsc;
use std::time::Duration;

struct Bell(mpsc::Sender<()>);

impl Wake for Bell {
    fn wake(&self) {
        let _ = self.0.send(());
    }
}

fn bell() -> (Arc<dyn Wake>, mpsc::Receiver<()>) {
    let (sender, receiver) = mpsc::channel();
    (Arc::new(Bell(sender)), receiver)
}

/// Answers each job with its file's number; waits at the gate before each job, if there is one.
struct Fake {
    gate: Option<mpsc::Receiver<()>>,
    log: mpsc::Sender<String>,
}

impl Store for Fake {
    fn run(&mut self, session: SessionKey, job: Job, done: &mut Vec<(SessionKey, Done)>) {
        if let Some(gate) = &self.gate {
            let _ = gate.recv();
        }
        match job {
            Job::CloseSource { file } => {
                self.log.send(format!("{session}/{}", file.0)).unwrap();
                done.push((session, Done::Written { file, bytes: file.0 }));
            }
            Job::EndSession => self.log.send("end".into()).unwrap(),
            _ => panic!("planted"),
        }
    }

    fn idle(&mut self, done: &mut Vec<(SessionKey, Done)>) {
        self.log.send("idle".into()).unwrap();
        let _ = done;
    }
}

fn job(number: u64) -> Job {
    Job::CloseSource { file: FileId(number) }
}

const PATIENCE: Duration = Duration::from_secs(10);

#[test]
fn jobs_run_in_order_and_answers_come_back_in_order() {
    let (waker, bell) = bell();
    let (log, lines) = mpsc::channel();
    let mut disk = Disk::start(Box::new(Fake { gate: None, log }), waker).unwrap();
    let (mut answers, mut taken) = (Vec::new(), Vec::new());
    for number in 0..1000 {
        let mut next = Some((number % 3, job(number)));
        while let Some((session, job)) = next {
            next = disk.submit(session, job).unwrap();
            if next.is_some() {
                bell.recv_timeout(PATIENCE).unwrap();
                disk.take_answers(&mut taken).unwrap();
                answers.append(&mut taken);
            }
        }
    }
    while answers.len() < 1000 {
        bell.recv_timeout(PATIENCE).unwrap();
        disk.take_answers(&mut taken).unwrap();
        answers.append(&mut taken);
    }
    for (number, (session, done)) in answers.iter().enumerate() {
        assert_eq!(*session, number as u64 % 3);
        assert!(matches!(done, Done::Written { bytes, .. } if *bytes == number as u64));
    }
    disk.shut_down().unwrap();
    let lines: Vec<String> = lines.iter().collect();
    assert_eq!(lines.last().map(String::as_str), Some("idle"));
    let runs = lines.iter().filter(|line| *line != "idle");
    assert!(runs.eq((0..1000).map(|n| format!("{}/{n}", n % 3)).collect::<Vec<_>>().iter()));
}

#[test]
fn a_full_queue_gives_the_job_back_and_wakes_when_there_is_room() {
    let (waker, bell) = bell();
    let (gate_sender, gate) = mpsc::channel();
    let (log, lines) = mpsc::channel();
    let mut disk = Disk::start(Box::new(Fake { gate: Some(gate), log }), waker).unwrap();
    let mut accepted = 0;
    let refused = loop {
        // These jobs have no answer, so that only the mark of a full queue can wake the loop.
        match disk.submit(1, Job::EndSession).unwrap() {
            None => accepted += 1,
            Some(refused) => break refused,
        }
        assert!(accepted <= QUEUE_JOBS + 1);
    };
    assert!(accepted >= QUEUE_JOBS);
    // The thread may have taken its first job only after the queue had been found full once: that rings as well.
    gate_sender.send(()).unwrap();
    bell.recv_timeout(PATIENCE).unwrap();
    let mut taken = Vec::new();
    disk.take_answers(&mut taken).unwrap();
    let mut next = Some(refused);
    while let Some((session, job)) = next.take() {
        next = disk.submit(session, job).unwrap();
        if next.is_some() {
            gate_sender.send(()).unwrap();
            bell.recv_timeout(PATIENCE).unwrap();
            disk.take_answers(&mut taken).unwrap();
        }
    }
    drop(gate_sender);
    disk.submit_waiting(1, job(7)).unwrap();
    disk.shut_down().unwrap();
    let lines: Vec<String> = lines.iter().filter(|line| line != "idle").collect();
    assert_eq!(lines.len(), accepted + 2);
    assert_eq!(lines.last().map(String::as_str), Some("1/7"));
}

#[test]
fn the_loop_is_woken_once_until_it_reacts() {
    let (waker, bell) = bell();
    let (log, lines) = mpsc::channel();
    let mut disk = Disk::start(Box::new(Fake { gate: None, log }), waker).unwrap();
    for number in 0..20 {
        assert!(disk.submit(1, job(number)).unwrap().is_none());
    }
    while lines.recv_timeout(PATIENCE).unwrap() != "1/19" {}
    // After the last job's line its answer follows at once; "idle" comes after that.
    while lines.recv_timeout(PATIENCE).unwrap() != "idle" {}
    assert_eq!(bell.try_iter().count(), 1);
    let mut taken = Vec::new();
    disk.take_answers(&mut taken).unwrap();
    assert_eq!(taken.len(), 20);
    taken.clear();
    assert!(disk.submit(1, job(20)).unwrap().is_none());
    bell.recv_timeout(PATIENCE).unwrap();
}

#[test]
fn a_panic_is_an_error_and_not_a_hang() {
    let (waker, bell) = bell();
    let (log, _lines) = mpsc::channel();
    let mut disk = Disk::start(Box::new(Fake { gate: None, log }), waker).unwrap();
    assert!(disk.submit(1, Job::RemoveScratch(Vec::new())).unwrap().is_none());
    bell.recv_timeout(PATIENCE).unwrap();
    let error = disk.take_answers(&mut Vec::new()).unwrap_err();
    assert_eq!(error.exit_code, 1);
    assert!(error.message.contains("planted"), "{error}");

    let (waker, bell) = self::bell();
    let (log, _lines) = mpsc::channel();
    let mut disk = Disk::start(Box::new(Fake { gate: None, log }), waker).unwrap();
    assert!(disk.submit(1, Job::RemoveScratch(Vec::new())).unwrap().is_none());
    bell.recv_timeout(PATIENCE).unwrap();
    let error = disk.submit_waiting(1, job(1)).unwrap_err();
    assert!(error.message.contains("planted"), "{error}");
}

#[test]
fn shutting_down_runs_what_is_queued() {
    let (waker, _bell) = bell();
    let (log, lines) = mpsc::channel();
    let mut disk = Disk::start(Box::new(Fake { gate: None, log }), waker).unwrap();
    for number in 0..30 {
        assert!(disk.submit(1, job(number)).unwrap().is_none());
    }
    disk.shut_down().unwrap();
    assert_eq!(lines.iter().filter(|line| line != "idle").count(), 30);
}
