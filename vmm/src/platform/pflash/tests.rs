use std::fs::File;
use std::os::unix::fs::FileExt;

use kvm_ioctls::{Kvm, VmFd};
use proptest::prelude::*;

use super::chip::{Chip, Effect};
use super::*;
use crate::memory::layout::slot;

const BLOCK: u64 = chip::BLOCK as u64;
const SIZE: u64 = 4 * BLOCK;

fn vm() -> Arc<VmFd> {
    Arc::new(Kvm::new().expect("/dev/kvm").create_vm().unwrap())
}

/// A flash of four blocks, each filled with its number, and its file.
fn flash(vm: &Arc<VmFd>) -> (Pflash, File) {
    let file = tempfile::tempfile().unwrap();
    for block in 0..4u8 {
        file.write_all_at(&[block; chip::BLOCK], u64::from(block) * BLOCK).unwrap();
    }
    let content = RomSlot::new(Arc::clone(vm), slot::VARIABLES, 0xFFC0_0000, &file, SIZE, true).unwrap();
    (Pflash::new(content, Arc::default()), file)
}

fn read(flash: &Pflash, offset: u64) -> u8 {
    let mut byte = [0xEE];
    flash.read(offset, &mut byte);
    byte[0]
}

fn shown(flash: &Pflash) -> bool {
    flash.state.lock().unwrap().chip.shows_array()
}

/// How OVMF finds out whether this is flash: it must behave neither like RAM nor like ROM.
#[test]
fn ovmf_detects_a_writable_flash() {
    let (flash, _) = flash(&vm());
    let original = read(&flash, BLOCK + 1);
    flash.write(BLOCK + 1, &[0x50]);
    assert_ne!(read(&flash, BLOCK + 1), 0x50, "not RAM");
    flash.write(BLOCK + 1, &[0x70]);
    assert_eq!(read(&flash, BLOCK + 1), 0, "a cleared status, not ROM");
    flash.write(BLOCK + 1, &[0x10]);
    flash.write(BLOCK + 1, &[original]);
    flash.write(BLOCK + 1, &[0x70]);
    assert_eq!(read(&flash, BLOCK + 1) & 0x10, 0, "not write-protected");
    flash.write(BLOCK + 1, &[0xFF]);
    assert_eq!(read(&flash, BLOCK + 1), original);
}

#[test]
fn bytes_are_programmed_and_blocks_erased_in_the_file() {
    let (flash, file) = flash(&vm());
    for (offset, byte) in [(BLOCK, 0xAB), (BLOCK + 1, 0xCD)] {
        flash.write(offset, &[0x10]);
        flash.write(offset, &[byte]);
        assert!(!shown(&flash));
    }
    flash.write(BLOCK + 1, &[0xFF]);
    assert!(shown(&flash));
    assert_eq!((read(&flash, BLOCK), read(&flash, BLOCK + 1), read(&flash, BLOCK + 2)), (0xAB, 0xCD, 1));
    flash.write(2 * BLOCK + 7, &[0x20]);
    flash.write(2 * BLOCK + 7, &[0xD0]);
    assert_eq!(read(&flash, 0), 0x80, "ready");
    flash.write(0, &[0xFF]);
    let mut content = vec![0; usize::try_from(SIZE).unwrap()];
    file.read_exact_at(&mut content, 0).unwrap();
    assert_eq!(content[4096..4099], [0xAB, 0xCD, 1]);
    assert!(content[2 * 4096..3 * 4096].iter().all(|byte| *byte == 0xFF));
    assert!(content[3 * 4096..].iter().all(|byte| *byte == 3));
}

#[test]
fn an_unconfirmed_erase_is_an_error() {
    let mut chip = Chip::default();
    assert_eq!(chip.write(0, 0x20), Effect::None);
    assert_eq!(chip.write(0, 0xFF), Effect::None);
    assert_eq!((chip.status(), chip.shows_array()), (0xB0, false));
    chip.write(0, 0x50);
    assert_eq!(chip.status(), 0);
    chip.write(0, 0xFF);
    assert!(chip.shows_array());
}

#[test]
fn the_slot_goes_with_the_flash() {
    let vm = vm();
    drop(flash(&vm));
    // Refused if the first one's slot still lay there.
    let file = tempfile::tempfile().unwrap();
    file.set_len(SIZE).unwrap();
    RomSlot::new(vm, slot::FIRMWARE, 0xFFC0_1000, &file, SIZE, false).unwrap();
}

proptest! {
    #[test]
    fn only_commanded_blocks_change(writes in prop::collection::vec((0..SIZE, prop::sample::select(
        vec![0x10u8, 0x20, 0x40, 0x50, 0x70, 0xD0, 0xFF, 0x00, 0x90]
    )), 0..64)) {
        let mut chip = Chip::default();
        let mut last = 0xFF;
        for (offset, byte) in writes {
            match chip.write(offset, byte) {
                Effect::None => {}
                Effect::Program => prop_assert!(matches!(last, 0x10 | 0x40)),
                Effect::Erase { start } => {
                    prop_assert_eq!((last, byte), (0x20, 0xD0));
                    prop_assert!(start % BLOCK == 0 && (start..start + BLOCK).contains(&offset));
                }
            }
            last = byte;
        }
    }
}
