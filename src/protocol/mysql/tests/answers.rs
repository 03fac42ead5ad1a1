//! What a server answers to a query.

use super::*;

#[test]
fn rows_are_read_by_the_names_of_their_columns() {
    let names: Vec<String> = (0..60).map(|index| format!("Column_{index}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut values = vec![None; 60];
    values[7] = Some("Yes");
    values[8] = Some("");
    for capabilities in [Capabilities::default(), DEPRECATED] {
        let payloads = result_set(capabilities, &names, &[row(&values)]);
        let Ok(Some(Reply::Rows(rows))) = reply(capabilities, &payloads) else {
            panic!("no rows");
        };
        assert_eq!((rows.len(), rows.column_names().len()), (1, 60));
        let row = rows.first().unwrap();
        assert_eq!(row.text("column_7"), Some("Yes"));
        assert_eq!(row.text("Column_8"), Some(""));
        assert_eq!(row.text("Column_9"), None);
        assert_eq!(row.text("absent"), None);
        assert_eq!(row.text_of_any(&["absent", "Column_7"]), Some("Yes"));
        assert_eq!(rows.status, Status::AUTOCOMMIT);
    }
}

#[test]
fn an_empty_result_an_ok_and_an_error_are_answers() {
    for capabilities in [Capabilities::default(), DEPRECATED] {
        let payloads = result_set(capabilities, &["a"], &[]);
        let Ok(Some(Reply::Rows(rows))) = reply(capabilities, &payloads) else {
            panic!("no rows");
        };
        assert!(rows.is_empty());
        let answer = reply(capabilities, &[ok()]).unwrap().unwrap();
        assert!(matches!(answer, Reply::Ok(_)));
        let error = ServerError::new(1227, *b"42000", "Access denied; you need SUPER");
        let head = reply(capabilities, &[error.encode()]);
        assert_eq!(head, Ok(Some(Reply::Error(error.clone()))));
        let mut payloads = result_set(capabilities, &["a"], &[]);
        *payloads.last_mut().unwrap() = error.encode();
        let among_rows = reply(capabilities, &payloads);
        assert_eq!(among_rows, Ok(Some(Reply::Error(error))));
    }
}

#[test]
fn answers_over_a_limit_or_out_of_shape_are_refused() {
    let many = |what| Err(ReplyError::TooMany(what));
    assert_eq!(reply(DEPRECATED, &[vec![101]]), many("columns"));
    let huge = b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff".to_vec();
    assert_eq!(reply(DEPRECATED, &[huge]), many("columns"));
    let mut rows = result_set(DEPRECATED, &["a"], &vec![row(&[Some("x")]); 3]);
    rows.pop();
    assert_eq!(reply(DEPRECATED, &rows), many("rows"));
    let mut long = result_set(DEPRECATED, &["a"], &[row(&[Some(&"x".repeat(9990))])]);
    long.pop();
    assert_eq!(reply(DEPRECATED, &long), many("bytes"));

    let more = OkPacket {
        status: Status::MORE_RESULTS,
        ..OkPacket::default()
    };
    for head in [
        more.encode(),
        b"\xfb/etc/passwd".to_vec(),
        vec![],
        vec![1, 1],
    ] {
        let refused = reply(DEPRECATED, std::slice::from_ref(&head));
        assert!(matches!(refused, Err(ReplyError::Malformed(_))), "{head:?}");
    }
    for bad in [b"\x01a\x01b".to_vec(), b"\x05a".to_vec(), b"".to_vec()] {
        let mut payloads = result_set(DEPRECATED, &["a"], std::slice::from_ref(&bad));
        payloads.pop();
        let refused = reply(DEPRECATED, &payloads);
        assert!(matches!(refused, Err(ReplyError::Malformed(_))), "{bad:?}");
    }
    let mut reader = ReplyReader::new(DEPRECATED, LIMITS);
    let message = Message {
        sequence: 2,
        payload: ok(),
    };
    assert_eq!(reader.on_message(&message), Err(ReplyError::OutOfOrder));
}
