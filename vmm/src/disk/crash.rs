//! A process that dies in the midst of its writes, again and again: what it was told is on the disk is there.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use super::testing::{Disk, Fixture, SIZE};
use super::{Options, open};
use crate::config::ImageFormat;

const IMAGE: &str = "VIREO_TEST_CRASH_IMAGE";
const ROUND: &str = "VIREO_TEST_CRASH_ROUND";
/// `none` or `writeback`, as the disk's `cache` is.
const CACHE: &str = "VIREO_TEST_CRASH_CACHE";
const BLOCK: usize = 4096;
const BLOCKS: usize = SIZE / BLOCK;
/// Flushes of a round before the writer is killed, and rounds.
const FLUSHES: usize = 60;
const ROUNDS: u64 = 6;

/// Numbers without a pattern, from a seed (xorshift64).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % bound as u64).unwrap()
    }
}

/// A block that says which write it was, all over.
fn block(number: u64) -> Vec<u8> {
    number.to_le_bytes().repeat(BLOCK / 8)
}

/// The process that is killed.
#[test]
#[ignore = "run by the tests beside it"]
fn writes_until_killed() {
    let path = std::env::var_os(IMAGE).expect("an image");
    let round: u64 = std::env::var(ROUND).unwrap().parse().unwrap();
    let format =
        if Path::new(&path).with_file_name("raw-is-it").exists() { ImageFormat::Raw } else { ImageFormat::Qcow2 };
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let direct = std::env::var(CACHE).unwrap() == "none";
    let options = Options { format, readonly: false, shareable: false, direct, block: 512 };
    let disk = Disk::new(open(file, None, options).unwrap());
    let (mut random, mut out) = (Random(round + 1), std::io::stdout().lock());
    for number in (round + 1) << 32.. {
        let target = random.below(BLOCKS);
        if random.below(4) == 0 {
            let count = 1 + random.below(8.min(BLOCKS - target));
            writeln!(out, "ZERO {target} {count}").unwrap();
            disk.image.write_zeroes((target * BLOCK) as u64, (count * BLOCK) as u64, true).unwrap();
        } else {
            writeln!(out, "WRITE {target} {number}").unwrap();
            disk.write_as_may_be(target * BLOCK, &block(number)).unwrap();
        }
        if random.below(2) == 0 {
            disk.image.flush().unwrap();
            writeln!(out, "FLUSHED").unwrap();
        }
    }
}

/// What the image may hold, by all that its writer said.
struct Model {
    /// Each block as the last flush left it.
    durable: Vec<Vec<u8>>,
    /// What was begun since, and may be there or not.
    begun: Vec<Vec<u64>>,
}

impl Model {
    fn new(disk: &Disk) -> Self {
        let durable = (0..BLOCKS).map(|at| disk.read(at * BLOCK, BLOCK).unwrap()).collect();
        Self { durable, begun: vec![Vec::new(); BLOCKS] }
    }

    /// Takes one line; whether it says that writes are safe.
    fn take(&mut self, line: &str) -> bool {
        let words: Vec<_> = line.split(' ').collect();
        // The test harness writes its own words into the first line.
        match words[..] {
            [.., "ZERO", target, count] => {
                let target: usize = target.parse().unwrap();
                self.begun[target..][..count.parse::<usize>().unwrap()].iter_mut().for_each(|begun| begun.push(0));
            }
            [.., "WRITE", target, number] => self.begun[target.parse::<usize>().unwrap()].push(number.parse().unwrap()),
            [.., "FLUSHED"] => {
                for (durable, begun) in self.durable.iter_mut().zip(&mut self.begun) {
                    if let Some(last) = begun.last() {
                        *durable = block(*last);
                    }
                    begun.clear();
                }
                return true;
            }
            _ => {}
        }
        false
    }

    fn check(&self, disk: &Disk, round: u64) {
        for (at, (durable, begun)) in self.durable.iter().zip(&self.begun).enumerate() {
            let found = disk.read(at * BLOCK, BLOCK).unwrap();
            let fine = |(found, durable): (&[u8], &[u8])| {
                found == durable || begun.iter().any(|number| found == number.to_le_bytes())
            };
            assert!(found.chunks(8).zip(durable.chunks(8)).all(fine), "round {round}: block {at} lost a write");
        }
    }
}

/// Kills the writer of `fixture` in each round after a while, and looks for what it was told.
fn survives(fixture: &Fixture) {
    if fixture.format == ImageFormat::Raw {
        std::fs::write(fixture.path("raw-is-it"), "").unwrap();
    }
    for round in 0..ROUNDS {
        let mut model = Model::new(&fixture.open());
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "disk::crash::writes_until_killed", "--ignored", "--nocapture"])
            .env(IMAGE, fixture.path("disk"))
            .env(ROUND, round.to_string())
            .env(CACHE, if fixture.options().direct { "none" } else { "writeback" })
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut flushes = 0;
        // The child goes on writing while its words are read, so that it dies wherever it is; what it still said counts.
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            flushes += usize::from(model.take(&line.unwrap()));
            if flushes == FLUSHES {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(flushes >= FLUSHES, "round {round}: the writer ended by itself");
        fixture.check();
        model.check(&fixture.open(), round);
    }
}

#[test]
fn no_acknowledged_write_is_lost_on_raw() {
    survives(&Fixture::raw());
}

#[test]
fn no_acknowledged_write_is_lost_on_qcow2() {
    survives(&Fixture::qcow2("cluster_size=4096", &[]));
}

#[test]
fn no_acknowledged_write_is_lost_past_the_page_cache() {
    survives(&Fixture::raw().direct());
    survives(&Fixture::qcow2("cluster_size=4096", &[]).direct());
    survives(&Fixture::qcow2("cluster_size=8192,compression_type=zstd", &["-c"]).direct());
}

#[test]
fn no_acknowledged_write_is_lost_on_compressed_qcow2() {
    survives(&Fixture::qcow2("cluster_size=8192", &["-c"]));
    survives(&Fixture::qcow2("cluster_size=8192,compression_type=zstd", &["-c"]));
}
