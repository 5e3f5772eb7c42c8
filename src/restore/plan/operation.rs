//! One system call of a plan, and its record in the file.
//!
//! A plan has about a thousand of them: they have one size, in memory as in
//! the file, so that loading a plan allocates nothing for each.

/// The most arguments that a system call has.
pub const ARGUMENTS_MAX: usize = 6;
/// The length of a record in bytes.
pub const LEN_RECORD: usize = 64;

/// How an operation's argument is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arg {
    /// The value itself.
    Value(u64),
    /// The address of the plan's data at this offset.
    Data(u64),
    /// The descriptor of the pages file.
    Pages,
    /// The descriptor that the caller gave under this number.
    Caller(u64),
    /// The descriptor of the pages file with this id, beside the first one.
    MorePages(u64),
}

/// What the result of an operation must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// It does not matter.
    Any,
    /// No error.
    Ok,
    /// This value.
    Equals(i64),
}

/// One system call, as it is stored: what the numbers mean is
/// [`Operation::arg`]'s and [`Operation::result`]'s to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operation {
    /// The call's number.
    pub number: u16,
    /// How many arguments it has; the others are 0.
    pub count: u8,
    /// Whether the result counts: 0 no, 1 no error, 2 equal to `expected`.
    pub check: u8,
    /// Four bits an argument, the first lowest: 0 the value itself, 1 an
    /// offset into the data, 2 the descriptor of the pages file, 3 the
    /// caller's descriptor of that number, 4 the pages file of that id.
    pub kinds: u32,
    /// The arguments.
    pub arguments: [u64; ARGUMENTS_MAX],
    /// What the result must be equal to.
    pub expected: i64,
}

impl Operation {
    /// Makes an operation. A number that no call has, or arguments that no
    /// call takes, are refused when its plan is checked.
    pub fn new(number: i64, args: &[Arg], check: Check) -> Self {
        let mut kinds = 0;
        let mut arguments = [0; ARGUMENTS_MAX];
        for (index, (arg, place)) in args.iter().zip(&mut arguments).enumerate() {
            let (kind, value) = match arg {
                Arg::Value(value) => (0, *value),
                Arg::Data(offset) => (1, *offset),
                Arg::Pages => (2, 0),
                Arg::Caller(number) => (3, *number),
                Arg::MorePages(id) => (4, *id),
            };
            kinds |= kind << (4 * index);
            *place = value;
        }
        let (check, expected) = match check {
            Check::Any => (0, 0),
            Check::Ok => (1, 0),
            Check::Equals(value) => (2, value),
        };
        Self {
            number: u16::try_from(number).unwrap_or(u16::MAX),
            count: u8::try_from(args.len()).unwrap_or(u8::MAX),
            check,
            kinds,
            arguments,
            expected,
        }
    }

    /// Returns argument `index`; missing ones are the value 0.
    pub fn arg(&self, index: usize) -> Arg {
        let Some(value) = self.arguments.get(index).copied() else { return Arg::Value(0) };
        match self.kinds >> (4 * index) & 15 {
            1 => Arg::Data(value),
            2 => Arg::Pages,
            3 => Arg::Caller(value),
            4 => Arg::MorePages(value),
            _ => Arg::Value(value),
        }
    }

    /// Returns what the result must be.
    pub fn result(&self) -> Check {
        match self.check {
            0 => Check::Any,
            1 => Check::Ok,
            _ => Check::Equals(self.expected),
        }
    }

    /// Tells whether every number is one that [`Self::new`] writes, for a call
    /// that takes so many arguments.
    pub(super) fn is_well_formed(&self, count_max: usize) -> bool {
        let count = usize::from(self.count);
        count <= count_max.min(ARGUMENTS_MAX)
            && self.kinds >> (4 * count) == 0
            && (0..count).all(|index| self.kinds >> (4 * index) & 15 <= 4)
            && self.arguments[count..].iter().all(|value| *value == 0)
            && self.check <= 2
            && (self.check == 2 || self.expected == 0)
    }

    /// Returns its record.
    pub(super) fn to_record(self) -> [u8; LEN_RECORD] {
        let mut record = [0; LEN_RECORD];
        record[..2].copy_from_slice(&self.number.to_le_bytes());
        record[2] = self.count;
        record[3] = self.check;
        record[4..8].copy_from_slice(&self.kinds.to_le_bytes());
        for (place, value) in record[8..56].chunks_exact_mut(8).zip(self.arguments) {
            place.copy_from_slice(&value.to_le_bytes());
        }
        record[56..].copy_from_slice(&self.expected.to_le_bytes());
        record
    }

    /// Reads a record; whether it makes sense is for the check of its plan to
    /// say.
    pub(super) fn from_record(record: &[u8; LEN_RECORD]) -> Self {
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&record[at..at + 8]);
            u64::from_le_bytes(word)
        };
        Self {
            number: u16::from_le_bytes([record[0], record[1]]),
            count: record[2],
            check: record[3],
            kinds: (word(0) >> 32) as u32,
            arguments: std::array::from_fn(|index| word(8 + 8 * index)),
            expected: word(56) as i64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_hold_all_of_an_operation() {
        let args = [Arg::Value(u64::MAX), Arg::Data(7), Arg::Pages, Arg::Caller(9)];
        for check in [Check::Any, Check::Ok, Check::Equals(-3)] {
            let operation = Operation::new(257, &args, check);
            let again = Operation::from_record(&operation.to_record());
            assert_eq!(again, operation);
            assert_eq!(again.result(), check);
            assert_eq!([0, 1, 2, 3].map(|index| again.arg(index)), args);
            assert_eq!([again.arg(4), again.arg(6)], [Arg::Value(0); 2]);
            assert!(again.is_well_formed(4) && !again.is_well_formed(3));
        }
    }

    #[test]
    fn what_new_does_not_write_is_not_well_formed() {
        let good = Operation::new(1, &[Arg::Value(1), Arg::Data(2)], Check::Ok);
        assert!(good.is_well_formed(6));
        for bad in [
            Operation { count: 7, ..good },
            Operation { count: 1, ..good },
            Operation { kinds: 0x110, ..good },
            Operation { kinds: 0x50, ..good },
            Operation { check: 3, ..good },
            Operation { expected: 1, ..good },
            Operation::new(1, &[Arg::Value(0); 7], Check::Ok),
        ] {
            assert!(!bad.is_well_formed(6), "{bad:?}");
        }
    }
}
