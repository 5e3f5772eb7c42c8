//! Words in an `@argfile` and in the environment's option variables.

/// Splits text as the `java` launcher splits an argument file: at white space;
/// `'` and `"` quote; a `#` at the start of a word makes the rest of the line
/// a comment; inside quotes a backslash takes the next character literally
/// and, at the end of a line, joins the next one without its indentation.
pub(super) fn of_argument_file(text: &[u8]) -> Vec<Vec<u8>> {
    let mut words = Vec::new();
    let mut word: Option<Vec<u8>> = None;
    let mut quote = None;
    let mut bytes = text.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        match (quote, byte) {
            (Some(open), byte) if byte == open => quote = None,
            // An unclosed quote ends with its line.
            (Some(_), b'\n' | b'\r') => {
                quote = None;
                words.extend(word.take());
            }
            (Some(_), b'\\') => match bytes.next() {
                Some(b'\n' | b'\r') => {
                    while bytes.next_if(|byte| byte.is_ascii_whitespace()).is_some() {}
                }
                Some(escape) => word.get_or_insert_default().push(unescape(escape)),
                None => {}
            },
            (None, b'\'' | b'"') => {
                quote = Some(byte);
                word.get_or_insert_default();
            }
            (None, b'#') if word.is_none() => {
                while bytes.next_if(|byte| !matches!(byte, b'\n' | b'\r')).is_some() {}
            }
            // Outside of quotes only the end of a line is escaped.
            (None, b'\\') if matches!(bytes.peek(), Some(b'\n' | b'\r')) => {
                while bytes.next_if(|byte| byte.is_ascii_whitespace()).is_some() {}
            }
            (None, byte) if byte.is_ascii_whitespace() => words.extend(word.take()),
            (_, byte) => word.get_or_insert_default().push(byte),
        }
    }
    words.extend(word);
    words
}

fn unescape(escape: u8) -> u8 {
    match escape {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'f' => 0x0c,
        other => other,
    }
}

/// Splits JAVA_TOOL_OPTIONS and its kind: at white space, with quotes.
pub(super) fn of_variable(text: &[u8]) -> Vec<Vec<u8>> {
    let mut words = Vec::new();
    let mut word: Option<Vec<u8>> = None;
    let mut quote = None;
    for byte in text.iter().copied() {
        match (quote, byte) {
            (Some(open), byte) if byte == open => quote = None,
            (None, b'\'' | b'"') => {
                quote = Some(byte);
                word.get_or_insert_default();
            }
            (None, byte) if byte.is_ascii_whitespace() => words.extend(word.take()),
            (_, byte) => word.get_or_insert_default().push(byte),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn strings(words: Vec<Vec<u8>>) -> Vec<String> {
        words.into_iter().map(|word| String::from_utf8(word).unwrap()).collect()
    }

    #[test]
    fn argument_files_are_split_as_the_launcher_does() {
        let text = "# options\n-cp \"a b\\\\c:\\\n   d\"\n-Dx='1 2' # rest\nA#b ''";
        let words = strings(of_argument_file(text.as_bytes()));
        assert_eq!(words, ["-cp", "a b\\c:d", "-Dx=1 2", "A#b", ""]);
        assert_eq!(strings(of_argument_file(b"c:\\x \\\n  y")), ["c:\\x", "y"]);
        assert!(of_argument_file(b" \n\t").is_empty());
    }

    #[test]
    fn variables_are_split_with_quotes() {
        let words = strings(of_variable(b"  -a '-b c' -d=\"e f\"g\n"));
        assert_eq!(words, ["-a", "-b c", "-d=e fg"]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_words(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            of_argument_file(&text);
            of_variable(&text);
        }
    }
}
