package ctl

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"
)

// visible writes text without what a terminal would obey: what is shown comes from a control plane, and there from
// proxies and others whom nobody here has reason to trust.
type visible struct{ to io.Writer }

// Write implements io.Writer. A character that is written in two halves is passed on as it is: of those that are held
// back one alone has two, and terminals that read UTF-8 do not take half of it for one.
func (v visible) Write(b []byte) (int, error) {
	if !bytes.ContainsFunc(b, commands) {
		return v.to.Write(b)
	}
	clean := bytes.Map(func(c rune) rune {
		if commands(c) {
			return '?'
		}
		return c
	}, b)
	if _, err := v.to.Write(clean); err != nil {
		return 0, err
	}
	return len(b), nil
}

// commands says whether a character is one that terminals obey, other than the end of a line and a tab.
func commands(c rune) bool { return c != '\n' && c != '\t' && unicode.IsControl(c) }

// inLine is a text that must not end the line or the column that it stands in.
func inLine(s string) string {
	return strings.Map(func(c rune) rune {
		if unicode.IsControl(c) {
			return '?'
		}
		return c
	}, s)
}

// escapeJSON writes what terminals obey by their numbers: in a JSON text it stands inside of strings only.
func escapeJSON(text []byte) []byte {
	if !bytes.ContainsFunc(text, commands) {
		return text
	}
	var out []byte
	for _, c := range string(text) {
		if commands(c) {
			out = fmt.Appendf(out, `\u%04x`, c)
		} else {
			out = utf8.AppendRune(out, c)
		}
	}
	return out
}
