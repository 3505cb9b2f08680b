use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;

use super::*;

const HEADER: &str =
    "t_ms,account,model,prompt_tokens,cached_prompt_tokens,generated_tokens,duration_ms,cached_prompt_tokens_bounded";

fn read(text: &str) -> Result<Vec<TraceRow>, TraceError> {
    TraceReader::new(Path::new("t.csv"), Box::new(io::Cursor::new(text.to_owned().into_bytes())))?.collect()
}

fn rows(lines: &str) -> Result<Vec<TraceRow>, TraceError> {
    read(&format!("{HEADER}\n{lines}"))
}

#[test]
fn missing_values_fall_back() {
    let rows = rows("0,a0,default,374,,44,,\n10,a1,m,100,96,0,,\r\n\n10,a1,m,100,100,7,1234,64\n").expect("reads");
    let seen: Vec<_> = rows.iter().map(|row| (row.at_ms, row.cached_tokens(), row.duration_ms())).collect();
    // 0.5 s + 44 tokens at 40 a second; no output at all still takes 0.5 s; what is stated stands.
    assert_eq!(seen, [(0, 0, 1_600), (10, 96, 500), (10, 100, 1_234)]);
    assert_eq!(rows[0].cached_prompt_tokens, None);
}

#[test]
fn columns_are_found_by_name() {
    let text = "\u{feff}model,extra,generated_tokens,prompt_tokens,account,t_ms\n\"a, \"\"b\"\"\",?,3,2,acme,1\n";
    let row = read(text).expect("reads").remove(0);
    assert_eq!((row.model.as_str(), row.account.as_str(), row.prompt_tokens, row.at_ms), ("a, \"b\"", "acme", 2, 1));
    assert_eq!((row.generated_tokens, row.cached_prompt_tokens, row.stated_duration_ms), (3, None, None));
}

#[test]
fn errors_name_file_line_and_column() {
    let long = "x".repeat(MAX_LINE_BYTES);
    let name = "n".repeat(257);
    for (line, says) in [
        ("x,a,m,1,,1,,", "t.csv:2: column `t_ms`: `x` is not a whole number"),
        ("-1,a,m,1,,1,,", "column `t_ms`: `-1` is not a whole number"),
        (",a,m,1,,1,,", "column `t_ms`: is empty"),
        ("0,,m,1,,1,,", "column `account`: is empty"),
        (&format!("0,a,{name},1,,1,,"), "column `model`: is longer than 256 bytes"),
        ("0,a\tb,m,1,,1,,", "column `account`: is longer than 256 bytes or has control characters"),
        ("0,a,m,0,,1,,", "column `prompt_tokens`: is 0; a request has at least one"),
        ("0,a,m,5,6,1,,", "column `cached_prompt_tokens`: 6 is more than the 5 of `prompt_tokens`"),
        ("0,a,m,1,,,,", "column `generated_tokens`: is empty"),
        ("0,a,m,1,,1099511627777,,", "column `generated_tokens`: 1099511627777 is above 2^40"),
        ("0,a,m,1,,99999999999999999999,,", "is above 2^40"),
        ("0,a,m,1,,1,1.5,", "column `duration_ms`: `1.5` is not a whole number"),
        ("0,a,m,1,,1", "the row has 6 fields, the header has 8"),
        ("0,\"a,m,1,,1,,", "column 2: a quoted field must end"),
        ("0,\"a\"b,m,1,,1,,", "column 2: a quoted field must end"),
        (&format!("0,a,{long},1,,1,,"), "t.csv:2: the line is longer than 4096 bytes"),
        ("0,a,m,1,,1,,\n7,a,m,1,,1,,\n6,a,m,1,,1,,", "t.csv:4: column `t_ms`: 6 is before the 7 of the row before"),
    ] {
        let error = rows(line).expect_err(line).to_string();
        assert!(error.contains(says), "{line}: {error}");
    }
    for (text, says) in [
        ("", "t.csv:1: expected a header row with the columns t_ms, account"),
        ("t_ms,account,model,prompt_tokens\n", "t.csv:1: the header has no column `generated_tokens`"),
        ("t_ms,t_ms,account,model,prompt_tokens,generated_tokens\n", "the header has the column `t_ms` twice"),
    ] {
        let error = read(text).expect_err(text).to_string();
        assert!(error.contains(says), "{text}: {error}");
    }
}

#[test]
fn nothing_follows_an_error() {
    let text = format!("{HEADER}\n0,a,m,0,,1,,\n1,a,m,1,,1,,\n");
    let mut reader = TraceReader::new(Path::new("t"), Box::new(io::Cursor::new(text.into_bytes()))).expect("header");
    assert!(reader.next().is_some_and(|row| row.is_err()));
    assert!(reader.next().is_none());
}

#[test]
fn an_endless_line_is_not_read_to_its_end() {
    let endless = io::BufReader::new(io::repeat(b'7'));
    let error = TraceReader::new(Path::new("t"), Box::new(endless)).err().expect("no header").to_string();
    assert_eq!(error, "t:1: the line is longer than 4096 bytes");
}

#[test]
fn gzip_is_seen_by_its_bytes() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path().join("not-named-gz");
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(format!("{HEADER}\n5,a,m,1,,1,,\n9,a,m,1,,1,,\n").as_bytes()).expect("compresses");
    let bytes = gzip.finish().expect("compresses");
    std::fs::write(&path, &bytes).expect("writes");
    assert_eq!(survey(&path).expect("reads"), Survey { rows: 2, last_arrival_ms: 9 });

    std::fs::write(&path, &bytes[..bytes.len() - 12]).expect("writes");
    let error = survey(&path).expect_err("cut short").to_string();
    assert!(error.contains("not-named-gz"), "{error}");
    let missing = folder.path().join("missing.csv");
    assert!(survey(&missing).expect_err("missing").to_string().contains("missing.csv"));
}

/// A field of a row, as it should be or not.
fn field() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => (0_u64..2_000).prop_map(|number| number.to_string()),
        2 => "[a-z]{1,3}",
        1 => Just(String::new()),
        1 => prop::sample::select(vec!["1099511627776", "1099511627777", "00000000000000000000001", "18446744073709551617"])
            .prop_map(str::to_owned),
        1 => "[a-z\"\u{e9} \u{7f}1-9]{0,4}",
        1 => Just("n".repeat(257)),
    ]
}

proptest! {
    /// The short way reads a row as the long one does, or leaves it to that.
    #[test]
    fn a_plain_row_is_read_as_any_other(mut fields in prop::collection::vec(field(), 5..9), sound in any::<bool>()) {
        const NAMES: &str = "t_ms,prompt_tokens,cached_prompt_tokens,generated_tokens,account,model,extra,max_generated_tokens";
        let plain = ["7", "70", "0", "7", "a", "b", "c", "9"];
        if sound {
            // All but one as they should be.
            let odd = fields[0].clone();
            let at = odd.len() % plain.len();
            fields = plain.map(str::to_owned).to_vec();
            fields[at] = odd;
        }
        let line = fields.join(",");
        let mut splitter = fields::Splitter::default();
        let columns = line::Columns::parse(&splitter.split(NAMES).expect("no quotes")).expect("all are there");
        let text = [&line, "\n", &line].concat();
        let short = plain::parse(&columns.roles, text.as_bytes());
        let mut splitter = fields::Splitter::default();
        let long = splitter.split(&line).and_then(|fields| columns.parse_row(fields));
        if let Some(row) = short {
            prop_assert_eq!(row.row(text.as_bytes()).ok_or(LineFault::NotUtf8), long);
            prop_assert_eq!(row.length, line.len() + 1);
        } else if let Ok(row) = long {
            let odd = !line.is_ascii() || line.contains(['"', '\u{7f}']) || line.contains("0000") || line.contains("nnnn");
            prop_assert!(odd, "{:?}: {:?}", line, row);
        }
    }
}
