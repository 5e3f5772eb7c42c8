//! Messages there and back, and bytes that are no messages.

use super::*;
use proptest::prelude::*;

fn string(text: &[u8]) -> Vec<u8> {
    let mut bytes = (text.len() as u32).to_le_bytes().to_vec();
    bytes.extend_from_slice(text);
    bytes
}

fn list(texts: &[&[u8]]) -> Vec<u8> {
    let mut bytes = (texts.len() as u32).to_le_bytes().to_vec();
    bytes.extend(texts.iter().flat_map(|text| string(text)));
    bytes
}

#[test]
fn orders_are_encoded_as_the_agent_reads_them() {
    let command = Delivery {
        argv: vec!["java".into(), "A".into(), "x y".into()],
        args: vec!["x y".into()],
        env: vec!["A=1".into()],
        cwd: "/tmp".into(),
    };
    let mut fields = list(&[b"java", b"A", b"x y"]);
    fields.extend(list(&[b"x y"]));
    fields.extend(list(&[b"A=1"]));
    fields.extend(string(b"/tmp"));
    let framed = |head: &[u8], rest: &[u8]| string(&[head, rest].concat());
    assert_eq!(
        encode(&Order::Train { wait_ms: 500, command: command.clone() }),
        framed(&[b'T', 0xf4, 1, 0, 0], &fields)
    );
    fields.extend([string(b"out"), string(b"err")].concat());
    let printed = ["out".into(), "err".into()];
    assert_eq!(encode(&Order::Deliver { command, printed }), framed(b"D", &fields));
    assert_eq!(encode(&Order::Classes), [1, 0, 0, 0, b'C']);
    assert_eq!(encode(&Order::Prepare { settle_ms: 258 }), framed(b"P", &[2, 1, 0, 0]));
    assert_eq!(
        encode(&Order::Link(vec![b"a/B".to_vec(), b"".to_vec()])),
        framed(b"L", &list(&[b"a/B", b""]))
    );
}

#[test]
fn reports_are_decoded() {
    let hello = [&b"H\x01\0\0\0"[..], &string(b"HotSpot 25\n\x1b[2J")].concat();
    let vm = "HotSpot 25??[2J".to_owned();
    assert_eq!(Report::decode(&hello), Ok(Report::Hello { protocol: 1, vm }));
    let unfit = [&b"X"[..], &string(b"no HotSpot")].concat();
    assert_eq!(Report::decode(&unfit), Ok(Report::Unfit("no HotSpot".into())));
    let main = [&b"M"[..], &list(&[b"-v"]), &string(b"a.B"), &string(b"a.B -v")].concat();
    let expected =
        MainReached { arguments: vec!["-v".into()], class: "a.B".into(), command: "a.B -v".into() };
    assert_eq!(Report::decode(&main), Ok(Report::Main(expected)));
    let end = [&b"E\x01\xff\xff\xff\xff"[..], &string(b"")].concat();
    let expected = End { how: How::Exited, code: -1, reason: String::new() };
    assert_eq!(Report::decode(&end), Ok(Report::End(expected)));
    let classes = [&b"K"[..], &list(&[b"a/B", b"\xed\xa0\x80"])].concat();
    let expected = vec![b"a/B".to_vec(), b"\xed\xa0\x80".to_vec()];
    assert_eq!(Report::decode(&classes), Ok(Report::Classes(expected)));
    assert_eq!(Report::decode(b"R"), Ok(Report::Ready));
}

#[test]
fn what_no_agent_sends_is_an_error() {
    assert_eq!(Report::decode(b""), Err(WireError::Length(0)));
    assert_eq!(Report::decode(b"Z"), Err(WireError::Kind(b'Z')));
    let malformed: [&[u8]; 8] = [
        b"R1",
        b"H",
        b"H\x01\0\0\0",
        b"H\x01\0\0\0\x05\0\0\0abcd",
        b"X\xff\xff\xff\xff",
        b"K\xff\xff\xff\xff",
        b"K\x02\0\0\0\0\0\0\0",
        b"E\x05\0\0\0\0\0\0\0\0",
    ];
    for body in malformed {
        assert_eq!(Report::decode(body), Err(WireError::Malformed(body[0])), "{body:?}");
    }
    for len in [0, BODY_MAX + 1, u32::MAX] {
        let mut reader = FrameReader::default();
        reader.feed(&len.to_le_bytes());
        assert_eq!(reader.next(), Err(WireError::Length(len)));
        assert_eq!(reader.next(), Err(WireError::Length(len)));
    }
}

proptest! {
    #[test]
    fn no_bytes_are_believed(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Report::decode(&body);
    }

    /// As above, where the first byte is a kind and the lengths are short, so
    /// that fields deep in a message are met too.
    #[test]
    fn no_fields_are_believed(
        kind in proptest::sample::select(b"HXMEKR".to_vec()),
        fields in proptest::collection::vec(prop_oneof![Just(0u8), 0u8..4, any::<u8>()], 0..60),
    ) {
        let body = [&[kind][..], &fields].concat();
        let decoded = Report::decode(&body);
        prop_assert!(!matches!(decoded, Err(WireError::Kind(_) | WireError::Length(_))));
    }

    #[test]
    fn messages_come_out_however_they_are_cut(
        bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..40), 0..8),
        cuts in proptest::collection::vec(1usize..9, 1..20),
    ) {
        let stream: Vec<u8> = bodies.iter().flat_map(|body| string(body)).collect();
        let mut reader = FrameReader::default();
        let (mut found, mut rest) = (Vec::new(), &stream[..]);
        for cut in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (head, tail) = rest.split_at((*cut).min(rest.len()));
            reader.feed(head);
            rest = tail;
            while let Some(body) = reader.next().unwrap() {
                found.push(body);
            }
        }
        prop_assert!(reader.is_empty());
        prop_assert_eq!(found, bodies);
    }
}
