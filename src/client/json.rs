//! A parser of JSON (RFC 8259), for answers of a few MiB at most.
//!
//! Bytes in, a value out. Members keep their order. Nesting is bounded, because the parser calls itself: an answer
//! comes from any server. Called by [`super::status`].

/// Deepest nesting of arrays and objects. The answers of healthz have 5.
const DEPTH_MAX: usize = 32;

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Null,
    Bool(bool),
    /// As it was written: formatting and parsing of floating-point numbers would be 28 KiB of the program.
    Number(String),
    Text(String),
    Array(Vec<Value>),
    Object(Vec<(String, Value)>),
}

impl Value {
    /// Parses a whole document; `None` if it is not valid or too deeply nested.
    pub fn parse(text: &str) -> Option<Value> {
        let mut rest = Rest(text);
        let value = rest.value(DEPTH_MAX)?;
        rest.skip_space();
        rest.0.is_empty().then_some(value)
    }

    /// The first member of this name, if this is an object.
    // For size: it is called for each key that is read.
    #[inline(never)]
    pub fn get(&self, name: &str) -> Option<&Value> {
        let mut members = self.members().iter();
        members.find_map(|(known, value)| (known == name).then_some(value))
    }

    /// The members of an object; nothing for all others.
    pub fn members(&self) -> &[(String, Value)] {
        match self {
            Value::Object(members) => members,
            _ => &[],
        }
    }

    /// The elements of an array; nothing for all others.
    pub fn elements(&self) -> &[Value] {
        match self {
            Value::Array(elements) => elements,
            _ => &[],
        }
    }

    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    pub fn as_number(&self) -> Option<&str> {
        match self {
            Value::Number(number) => Some(number),
            _ => None,
        }
    }
}

/// A valid document without space between its parts, and without control characters, which strings can have from
/// U+007F to U+009F.
pub fn on_one_line(valid: &str) -> String {
    let mut line = String::with_capacity(valid.len());
    let mut is_in_text = false;
    let mut is_escaped = false;
    for character in valid.chars() {
        match character {
            ' ' | '\t' | '\n' | '\r' if !is_in_text => continue,
            '\u{7f}'..='\u{9f}' => line.push_str(&format!("\\u{:04x}", u32::from(character))),
            _ => line.push(character),
        }
        is_in_text ^= character == '"' && !is_escaped;
        is_escaped = character == '\\' && !is_escaped;
    }
    line
}

/// The text that is not parsed yet.
struct Rest<'a>(&'a str);

impl Rest<'_> {
    fn skip_space(&mut self) {
        self.0 = self.0.trim_start_matches([' ', '\t', '\n', '\r']);
    }

    /// Removes `token` from the start, after any space. Returns false if it is not there.
    fn takes(&mut self, token: &str) -> bool {
        self.skip_space();
        let rest = self.0.strip_prefix(token);
        self.0 = rest.unwrap_or(self.0);
        rest.is_some()
    }

    fn value(&mut self, depth: usize) -> Option<Value> {
        self.skip_space();
        match self.0.as_bytes().first()? {
            b'{' => self.object(depth.checked_sub(1)?),
            b'[' => self.array(depth.checked_sub(1)?),
            b'"' => self.text().map(Value::Text),
            b'-' | b'0'..=b'9' => self.number(),
            _ if self.takes("null") => Some(Value::Null),
            _ if self.takes("true") => Some(Value::Bool(true)),
            _ if self.takes("false") => Some(Value::Bool(false)),
            _ => None,
        }
    }

    fn object(&mut self, depth: usize) -> Option<Value> {
        let mut members = Vec::new();
        self.takes("{");
        if self.takes("}") {
            return Some(Value::Object(members));
        }
        loop {
            self.skip_space();
            let name = self.text()?;
            if !self.takes(":") {
                return None;
            }
            members.push((name, self.value(depth)?));
            if self.takes("}") {
                return Some(Value::Object(members));
            }
            if !self.takes(",") {
                return None;
            }
        }
    }

    fn array(&mut self, depth: usize) -> Option<Value> {
        let mut elements = Vec::new();
        self.takes("[");
        if self.takes("]") {
            return Some(Value::Array(elements));
        }
        loop {
            elements.push(self.value(depth)?);
            if self.takes("]") {
                return Some(Value::Array(elements));
            }
            if !self.takes(",") {
                return None;
            }
        }
    }

    /// A string in quotes.
    fn text(&mut self) -> Option<String> {
        self.0 = self.0.strip_prefix('"')?;
        let mut text = String::new();
        loop {
            let end = self.0.find(['"', '\\'])?;
            let (plain, rest) = self.0.split_at_checked(end)?;
            if plain.bytes().any(|byte| byte < 0x20) {
                return None;
            }
            text.push_str(plain);
            if let Some(rest) = rest.strip_prefix('"') {
                self.0 = rest;
                return Some(text);
            }
            self.0 = rest.strip_prefix('\\')?;
            text.push(self.escaped()?);
        }
    }

    /// What follows a backslash.
    fn escaped(&mut self) -> Option<char> {
        let mut characters = self.0.chars();
        let first = characters.next()?;
        self.0 = characters.as_str();
        Some(match first {
            '"' | '\\' | '/' => first,
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'u' => self.unicode()?,
            _ => return None,
        })
    }

    /// What follows `\u`: a character, or two halves of one.
    fn unicode(&mut self) -> Option<char> {
        let first = self.four_digits()?;
        if !(0xd800..0xdc00).contains(&first) {
            return char::from_u32(first);
        }
        self.0 = self.0.strip_prefix("\\u")?;
        let second = self.four_digits()?.checked_sub(0xdc00)?;
        let is_low = second < 0x400;
        char::from_u32(0x10000 + ((first - 0xd800) << 10) + second).filter(|_| is_low)
    }

    fn four_digits(&mut self) -> Option<u32> {
        let (digits, rest) = self.0.split_at_checked(4)?;
        self.0 = rest;
        // `from_str_radix` would accept a sign.
        let are_digits = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        u32::from_str_radix(digits, 16).ok().filter(|_| are_digits)
    }

    fn number(&mut self) -> Option<Value> {
        let text = self.0;
        let unsigned = text.strip_prefix('-').unwrap_or(text);
        let mut rest = match unsigned.strip_prefix('0') {
            Some(rest) => rest,
            None => after_digits(unsigned)?,
        };
        if let Some(fraction) = rest.strip_prefix('.') {
            rest = after_digits(fraction)?;
        }
        if let Some(exponent) = rest.strip_prefix(['e', 'E']) {
            rest = after_digits(exponent.strip_prefix(['+', '-']).unwrap_or(exponent))?;
        }
        self.0 = rest;
        let number = text.strip_suffix(rest)?;
        Some(Value::Number(number.into()))
    }
}

/// What follows the digits at the start; `None` if there are none.
fn after_digits(text: &str) -> Option<&str> {
    let rest = text.trim_start_matches(|c: char| c.is_ascii_digit());
    (rest.len() < text.len()).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The value of another parser in the same form.
    fn converted(value: serde_json::Value) -> Value {
        match value {
            serde_json::Value::Null => Value::Null,
            serde_json::Value::Bool(value) => Value::Bool(value),
            serde_json::Value::Number(number) => number_of(number.as_f64().unwrap()),
            serde_json::Value::String(text) => Value::Text(text),
            serde_json::Value::Array(elements) => {
                Value::Array(elements.into_iter().map(converted).collect())
            }
            serde_json::Value::Object(members) => {
                let members = members.into_iter();
                Value::Object(
                    members
                        .map(|(name, value)| (name, converted(value)))
                        .collect(),
                )
            }
        }
    }

    fn number_of(value: f64) -> Value {
        Value::Number(value.to_string())
    }

    /// Members in the order of the other parser, which sorts them, and numbers written as it writes them.
    fn sorted(value: Value) -> Value {
        match value {
            Value::Array(elements) => Value::Array(elements.into_iter().map(sorted).collect()),
            Value::Object(members) => {
                let mut members: Vec<_> = members
                    .into_iter()
                    .map(|(name, value)| (name, sorted(value)))
                    .collect();
                members.sort_by(|a, b| a.0.cmp(&b.0));
                Value::Object(members)
            }
            Value::Number(number) => number_of(number.parse().unwrap()),
            other => other,
        }
    }

    #[test]
    fn documents_are_read_as_another_parser_reads_them() {
        let answer = r#"{"status":"fail","releaseId":"0.1.0","listeners":["a","b"],"checks":{"b":[{"lastRunSeconds":
            0.004000,"runs":{"success":12}}],"a":[{"output":"\u0000\"\\\/\b\f\n\r\t\u00e9\ud83d\udca9 é"}]}} "#;
        for text in [
            answer,
            "null",
            " true\n",
            "false",
            "0",
            "-0",
            "-0.5e+3",
            "12E-2",
            "[]",
            "{}",
            "[ ]",
            "[1 , [2],{\"\":{}}]",
            "\"\"",
            "\"\u{7f}\u{2028}\"",
            "[0.1e1]",
            // Not valid.
            "",
            " ",
            "nul",
            "nulll",
            "[1,]",
            "[,1]",
            "[1 2]",
            "{\"a\":1,}",
            "{\"a\"}",
            "{a:1}",
            "{\"a\":1 \"b\":2}",
            "[",
            "{",
            "\"",
            "\"a",
            "\"\\",
            "\"\\u12\"",
            "\"\\u+123\"",
            "\"\\ud800\"",
            "\"\\ud800\\u0041\"",
            "\"\\udc00\"",
            "\"\\x\"",
            "\"\n\"",
            "01",
            "-01",
            "1.",
            ".5",
            "-",
            "+1",
            "1e",
            "1.e1",
            "0x1",
            "1 2",
            "\u{a0}1",
            "'a'",
            "//",
            "NaN",
            "Infinity",
            "\"\\u00é\"",
        ] {
            let other = serde_json::from_str(text).ok().map(converted);
            assert_eq!(Value::parse(text).map(sorted), other, "{text:?}");
        }
        // A number that is too large is not valid for the other one.
        assert_eq!(Value::parse("1e999"), Some(Value::Number("1e999".into())));
    }

    #[test]
    fn members_keep_their_order_and_the_first_of_a_name_counts() {
        let value = Value::parse(r#"{"b":1,"a":"x","b":2}"#).unwrap();
        let names: Vec<_> = value
            .members()
            .iter()
            .map(|(name, _)| name.as_str())
            .collect();
        assert_eq!(names, ["b", "a", "b"]);
        assert_eq!(value.get("b").and_then(Value::as_number), Some("1"));
        assert_eq!(value.get("a").and_then(Value::as_str), Some("x"));
        assert_eq!(value.get("c"), None);
        assert!(value.elements().is_empty() && Value::Null.members().is_empty());
    }

    #[test]
    fn nesting_is_bounded() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert!(Value::parse(&nested(DEPTH_MAX)).is_some());
        assert_eq!(Value::parse(&nested(DEPTH_MAX + 1)), None);
        assert_eq!(Value::parse(&"[".repeat(1_000_000)), None);
        assert_eq!(Value::parse(&"{\"a\":".repeat(1_000_000)), None);
    }
}
