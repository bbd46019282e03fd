//! Faults of QEMU's x86 emulation that end guests or nodes, mended in the unpacked program.
//!
//! Read from QEMU's source (10.0; its newest has the first one still) and seen: with a thread that kicks the vCPUs every
//! 2 ms no nested guest of three came up, and with the first mend twelve of twelve did. A mend is a place in the program
//! that only the compiled fault has, and what goes there instead, of the same length. A program that another compiler or
//! version made has the place elsewhere or looks different: it is left as it is, which is said.

/// Bytes, two digits each; `..` is any byte where they are looked for, and stays as it is where they are put.
#[derive(Debug)]
struct Mend {
    /// What goes wrong without it.
    fault: &'static str,
    find: &'static str,
    put: &'static str,
}

const MENDS: [Mend; 4] = [
    // VMRUN delivers an injected interrupt at once, but leaves its vector in `exception_index`, as if it had still to be
    // delivered. If a kick comes from another thread before the guest's next exit, it is delivered a second time, also
    // with interrupts off, as between an interrupt from userland and its SWAPGS. The store goes.
    Mend {
        fault: "VMRUN may deliver an injected interrupt twice: guests end by a triple fault, or hang",
        find: "89 .. .. .. ff ff c7 83 .. .. 00 00 00 00 00 00 48 c7 83 .. .. 00 00 ff ff ff ff f6 05 .. .. .. .. 02 \
               0f 85 .. .. .. .. ba 01 00 00 00 48 89 df e8",
        put: "66 0f 1f 44 00 00",
    },
    // A guest that writes CR8 while a virtual interrupt waits raises it without the big lock, and an assertion wants that.
    // What it protects is the next instruction alone, an OR on memory: it becomes atomic.
    Mend {
        fault: "a guest's write to CR8 may end QEMU (tcg_handle_interrupt: assertion failed)",
        find: "48 83 ec 08 e8 .. .. .. .. 84 c0 74 45 09 ab d0 00 00 00",
        put: ".. .. .. .. .. .. .. .. .. 90 90 90 f0 09 ab d0 00 00 00",
    },
    // Both ends of a guest's run change the vCPU's pending interrupts without that lock, and another thread's change may be
    // lost: a node's timer, say. They become atomic (`lock btr`, `lock bts`).
    Mend {
        fault: "#VMEXIT may lose an interrupt of the node",
        find: "81 a3 10 d5 ff ff ff fe ff ff",
        put: "f0 0f ba b3 10 d5 ff ff 08 90",
    },
    Mend {
        fault: "VMRUN may lose an interrupt of the node",
        find: "81 8b 10 d5 ff ff 00 01 00 00",
        put: "f0 0f ba ab 10 d5 ff ff 08 90",
    },
];

/// Mends the program; returns the faults that it keeps.
pub(super) fn mend(program: &mut [u8]) -> Vec<&'static str> {
    MENDS.iter().filter(|mend| !mend.apply(program)).map(|mend| mend.fault).collect()
}

impl Mend {
    /// Whether the place was there, once.
    fn apply(&self, program: &mut [u8]) -> bool {
        let (find, put) = (pattern(self.find), pattern(self.put));
        let mut places = program
            .windows(find.len())
            .enumerate()
            .filter(|(_, bytes)| {
                bytes.iter().zip(&find).all(|(byte, wanted)| wanted.is_none_or(|wanted| wanted == *byte))
            })
            .map(|(place, _)| place);
        let (Some(place), None) = (places.next(), places.next()) else { return false };
        for (byte, new) in program[place..].iter_mut().zip(put) {
            *byte = new.unwrap_or(*byte);
        }
        true
    }
}

fn pattern(text: &str) -> Vec<Option<u8>> {
    text.split_whitespace().map(|digits| u8::from_str_radix(digits, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::{MENDS, mend, pattern};

    fn of(text: &str) -> Vec<u8> {
        pattern(text).into_iter().map(|byte| byte.unwrap_or(0x77)).collect()
    }

    #[test]
    fn each_place_is_mended_in_its_own_length() {
        let mut program: Vec<u8> = MENDS.iter().flat_map(|mend| [of("90 90"), of(mend.find)].concat()).collect();
        let before = program.clone();
        assert!(mend(&mut program).is_empty());
        let wanted: Vec<u8> = MENDS
            .iter()
            .flat_map(|mend| {
                let put = pattern(mend.put).into_iter().chain(std::iter::repeat(None));
                let mended = of(mend.find).into_iter().zip(put).map(|(byte, new)| new.unwrap_or(byte));
                [of("90 90"), mended.collect()].concat()
            })
            .collect();
        assert_eq!(program, wanted);
        assert_ne!(program, before);
        assert_eq!(mend(&mut program).len(), MENDS.len(), "nothing is left to mend");
    }

    #[test]
    fn a_place_that_is_there_twice_is_left_alone() {
        let mut program = [of(MENDS[3].find), of(MENDS[3].find)].concat();
        let before = program.clone();
        assert_eq!(mend(&mut program).len(), MENDS.len());
        assert_eq!(program, before);
    }
}
