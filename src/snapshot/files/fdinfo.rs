//! `/proc/PID/fdinfo/N` (`proc(5)`, Documentation/filesystems/proc.rst 3.8).

/// The lines of an fdinfo file.
#[derive(Debug, Default)]
pub struct Info {
    /// The access mode and status flags, with O_CLOEXEC for the descriptor's
    /// own flag.
    pub flags: u32,
    /// The file offset.
    pub pos: u64,
    lines: Vec<(String, String)>,
}

impl Info {
    /// Parses the text.
    pub fn parse(text: &str) -> Self {
        let lines: Vec<(String, String)> = text
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned()))
            .collect();
        let mut info = Self { flags: 0, pos: 0, lines };
        info.flags = info.octal("flags") as u32;
        info.pos = info.number("pos");
        info
    }

    /// Returns the value of the first line of that name.
    pub fn value(&self, key: &str) -> &str {
        let line = self.lines.iter().find(|(name, _)| name == key);
        line.map_or("", |(_, value)| value)
    }

    /// Returns the values of all lines of that name.
    pub fn values<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.lines.iter().filter(move |(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// Returns a decimal value.
    pub fn number(&self, key: &str) -> u64 {
        self.value(key).parse().unwrap_or(0)
    }

    /// Returns a hexadecimal value.
    pub fn hex(&self, key: &str) -> u64 {
        u64::from_str_radix(self.value(key), 16).unwrap_or(0)
    }

    /// Returns an octal value.
    pub fn octal(&self, key: &str) -> u64 {
        u64::from_str_radix(self.value(key), 8).unwrap_or(0)
    }

    /// Returns a time such as `(3, 500)`: seconds, nanoseconds.
    pub fn time(&self, key: &str) -> (u64, u64) {
        let value = self.value(key).trim_matches(['(', ')']);
        let (sec, nsec) = value.split_once(',').unwrap_or(("0", "0"));
        (sec.trim().parse().unwrap_or(0), nsec.trim().parse().unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_in_their_base() {
        let info = Info::parse(
            "pos:\t42\nflags:\t02000002\neventfd-count:               1f\nit_value: (3, 500)\n",
        );
        assert_eq!((info.pos, info.flags), (42, 0o2000002));
        assert_eq!((info.hex("eventfd-count"), info.time("it_value")), (0x1f, (3, 500)));
        assert_eq!(info.value("nothing"), "");
    }
}
