//! What the network's libraries say, in words of which an admin knows what to do.

/// A text of theirs in plain words. Connections, names and TLS are told apart; what OpenSSL says
/// loses the places in its sources and gets what it most likely means.
pub(super) fn plain(text: &str) -> String {
    let mut text = tls(text).unwrap_or_else(|| text.to_owned());
    for (theirs, ours) in [
        ("client error (Connect)", "cannot connect"),
        ("client error (SendRequest)", "no answer"),
        ("tcp connect error: ", ""),
        ("connection error: ", ""),
        ("dns error: ", ""),
        ("error resolving DNS: ", ""),
        (
            "failed to lookup address information",
            "the name has no address",
        ),
    ] {
        text = text.replace(theirs, ours);
    }
    if text.ends_with("invalid HTTP version parsed") {
        text.push_str(" (is it https there, not http?)");
    }
    text
}

/// The text with an error of OpenSSL in it (`error:CODE:LIBRARY:FUNCTION:REASON:FILE:LINE:MORE`)
/// reduced to the reason and what more there is to say. Of a whole stack of them what counts is what
/// TLS made of it.
fn tls(text: &str) -> Option<String> {
    const LIBRARY: &str = ":SSL routines:";
    let (_stack, after) = text.split_once(LIBRARY)?;
    let before = text.get(..first_error(text)?)?;
    let mut fields = after.splitn(5, ':');
    let (_function, reason) = (fields.next()?, fields.next()?);
    let (_file, _line) = (fields.next()?, fields.next()?);
    let more = fields.next()?.trim();
    // Only the first of several: the others follow from it.
    let more = more.split(", error:").next().unwrap_or_default();
    let more = more.trim_matches(['(', ')', ',', ' ']);
    let mut said = format!("{before}TLS: {reason}");
    if !more.is_empty() {
        said.push_str(&format!(": {more}"));
    }
    said.push_str(meaning(reason, more));
    Some(said)
}

/// Where the first error of OpenSSL begins, by its code.
fn first_error(text: &str) -> Option<usize> {
    const MARK: &str = "error:";
    let has_code = |at: &usize| {
        let from = at + MARK.len();
        let code = text.get(from..from + 8);
        code.is_some_and(|code| code.bytes().all(|digit| digit.is_ascii_hexdigit()))
    };
    let mut places = text.match_indices(MARK).map(|(at, _)| at);
    places.find(has_code)
}

fn meaning(reason: &str, more: &str) -> &'static str {
    match reason {
        "wrong version number"
        | "http request"
        | "packet length too long"
        | "record layer failure" => " (is it http there, not https?)",
        "certificate verify failed"
            if more.contains("self-signed") || more.contains("issuer certificate") =>
        {
            " (a CA of the site's own belongs in ca_path)"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_trouble_of_a_connection_has_its_words() {
        for (theirs, ours) in [
            (
                "client error (Connect): tcp connect error: Connection refused (os error 111)",
                "cannot connect: Connection refused (os error 111)",
            ),
            (
                "client error (Connect): dns error: error resolving DNS: failed to lookup address \
                 information: Name or service not known",
                "cannot connect: the name has no address: Name or service not known",
            ),
            (
                "client error (SendRequest): connection error: Connection reset by peer (os error 104)",
                "no answer: Connection reset by peer (os error 104)",
            ),
            (
                "client error (SendRequest): connection closed before message completed",
                "no answer: connection closed before message completed",
            ),
            (
                "client error (SendRequest): invalid HTTP version parsed",
                "no answer: invalid HTTP version parsed (is it https there, not http?)",
            ),
            (
                "client error (Connect): error:0A00010B:SSL routines:ssl3_get_record:wrong version \
                 number:../ssl/record/ssl3_record.c:350:",
                "cannot connect: TLS: wrong version number (is it http there, not https?)",
            ),
            (
                "client error (Connect): error:0A000086:SSL routines:\
                 tls_post_process_server_certificate:certificate verify failed:\
                 ../ssl/statem/statem_clnt.c:1889: (self-signed certificate)",
                "cannot connect: TLS: certificate verify failed: self-signed certificate \
                 (a CA of the site's own belongs in ca_path)",
            ),
            (
                "client error (Connect): error:0A000086:SSL routines::certificate verify failed:\
                 ../ssl/statem/statem_clnt.c:2091: (certificate has expired)",
                "cannot connect: TLS: certificate verify failed: certificate has expired",
            ),
            (
                "client error (SendRequest): error:0A000412:SSL routines:ssl3_read_bytes:sslv3 \
                 alert bad certificate:../ssl/record/rec_layer_s3.c:1586:SSL alert number 42, \
                 error:0A000197:SSL routines:x:shutdown while in init:../ssl/ssl_lib.c:1:",
                "no answer: TLS: sslv3 alert bad certificate: SSL alert number 42",
            ),
            (
                "client error (Connect): error:02000084:rsa routines:rsa_ossl_public_decrypt:data \
                 too large for modulus:../crypto/rsa/rsa_ossl.c:554:, error:1C880004:Provider \
                 routines:rsa_verify:RSA lib:../providers/x/rsa_sig.c:769:, error:0A000086:SSL \
                 routines:tls_post_process_server_certificate:certificate verify failed:\
                 ../ssl/statem/statem_clnt.c:1889: (certificate signature failure)",
                "cannot connect: TLS: certificate verify failed: certificate signature failure",
            ),
            ("the body broke off", "the body broke off"),
            (
                "error:0A00010B:SSL routines:cut off",
                "error:0A00010B:SSL routines:cut off",
            ),
        ] {
            assert_eq!(plain(theirs), ours);
        }
    }
}
