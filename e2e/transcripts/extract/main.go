// Command extract reads the three API documents and writes their examples as transcripts: each request with its
// body, and the answer that the document shows. The tests read only what it wrote, which is committed:
//
//	go run ./e2e/transcripts/extract -out e2e/transcripts/testdata 1.1=DOC 0.6=DOC 0.4=DOC
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Exchange is one example of a document.
type Exchange struct {
	// Line of the document where the request stands.
	Line    int               `json:"line"`
	Method  string            `json:"method"`
	URL     string            `json:"url"`
	Headers map[string]string `json:"headers,omitempty"`
	// Body of the request as the document has it; it need not be valid.
	Body string `json:"body,omitempty"`
	// Statuses that the document names for it.
	Statuses []int `json:"statuses,omitempty"`
	// Answer that the document shows; it need not be valid.
	Answer string `json:"answer,omitempty"`
}

func main() {
	out := flag.String("out", "", "directory of the transcripts")
	flag.Parse()
	if err := run(*out, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "extract:", err)
		os.Exit(1)
	}
}

func run(out string, documents []string) error {
	for _, d := range documents {
		name, path, ok := strings.Cut(d, "=")
		if !ok {
			return fmt.Errorf("%q is not NAME=FILE", d)
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		all, err := extract(raw)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		var b bytes.Buffer
		enc := json.NewEncoder(&b)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", " ")
		if err := enc.Encode(all); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(out, name+".json"), b.Bytes(), 0o644); err != nil {
			return err
		}
		fmt.Printf("%s: %d examples\n", name, len(all))
	}
	return nil
}

// block is one piece of code in a document, or one line of its text.
type block struct {
	line int
	code bool
	text string
}

// The documents mark code by fences, or by numbering its lines from 1.
var (
	numbered = regexp.MustCompile(`^ {0,4}(\d+)\. ?(.*)$`)
	fence    = regexp.MustCompile("^ {0,4}```")
)

func blocks(document []byte) ([]block, error) {
	var (
		all    []block
		fenced bool
		next   int // number of the line that would go on with the last block
	)
	sc := bufio.NewScanner(bytes.NewReader(document))
	sc.Buffer(nil, 1<<20)
	for line := 1; sc.Scan(); line++ {
		text := sc.Text()
		switch m := numbered.FindStringSubmatch(text); {
		case fence.MatchString(text):
			if fenced = !fenced; fenced {
				all = append(all, block{line: line + 1, code: true})
			}
			next = 0
		case fenced:
			last := &all[len(all)-1]
			last.text += text + "\n"
		case m != nil:
			n, err := strconv.Atoi(m[1])
			if err != nil {
				return nil, fmt.Errorf("line %d: %w", line, err)
			}
			if n != next || n == 1 {
				if n != 1 {
					next = 0
					all = append(all, block{line: line, text: text})
					continue
				}
				all = append(all, block{line: line, code: true})
			}
			last := &all[len(all)-1]
			last.text += m[2] + "\n"
			next = n + 1
		default:
			next = 0
			all = append(all, block{line: line, text: text})
		}
	}
	return all, sc.Err()
}

var (
	statusLine = regexp.MustCompile("^Response:")
	bodyLine   = regexp.MustCompile(`^Request: (PUT|POST) (/\S*) with the following body:`)
	statusCode = regexp.MustCompile(`\b([1-5]\d\d) [A-Z]`)
	word       = regexp.MustCompile(`(?:'[^']*'|"[^"]*"|[^\s'"])+`)
)

func extract(document []byte) ([]Exchange, error) {
	all, err := blocks(document)
	if err != nil {
		return nil, err
	}
	var (
		out      []Exchange
		statuses []int
		open     *Exchange // may still get a body or an answer
		wants    bool      // its body comes first
	)
	for _, b := range all {
		switch {
		case !b.code:
			if statusLine.MatchString(b.text) {
				statuses = nil
				for _, m := range statusCode.FindAllStringSubmatch(b.text, -1) {
					n, err := strconv.Atoi(m[1])
					if err != nil {
						return nil, fmt.Errorf("line %d: %w", b.line, err)
					}
					statuses = append(statuses, n)
				}
			}
			if strings.TrimSpace(b.text) != "" {
				open = nil
			}
			if m := bodyLine.FindStringSubmatch(b.text); m != nil {
				// An example without a curl line.
				out = append(out, Exchange{Line: b.line, Method: m[1], URL: "http://localhost:5681" + m[2]})
				open, wants, statuses = &out[len(out)-1], true, nil
			}
		case strings.HasPrefix(strings.TrimPrefix(strings.TrimSpace(b.text), "$ "), "curl "):
			e, file, err := request(b.text)
			if err != nil {
				return nil, fmt.Errorf("line %d: %w", b.line, err)
			}
			if e == nil {
				continue
			}
			e.Line, e.Statuses = b.line, statuses
			out = append(out, *e)
			open, wants = &out[len(out)-1], file
		case open == nil && slices.Contains(statuses, http.StatusCreated) && strings.HasPrefix(b.text, "{") && len(out) > 0:
			// A body whose curl line is missing: it goes where the example before it has read from.
			out = append(out, Exchange{Line: b.line, Method: http.MethodPut, URL: out[len(out)-1].URL, Body: b.text, Statuses: statuses})
			statuses = nil
		case open != nil && wants:
			open.Body, wants = b.text, false
		case open != nil && open.Answer == "":
			open.Answer = b.text
		}
	}
	return out, nil
}

// request reads a curl line; file says that the body stands in a file, which the document shows next. What is
// no request of the API (a download, a call of a proxy) gives nil.
func request(line string) (e *Exchange, file bool, err error) {
	e = &Exchange{Method: http.MethodGet, Headers: map[string]string{}}
	words := word.FindAllString(strings.ReplaceAll(line, "\\\n", " "), -1)
	for i := 0; i < len(words); i++ {
		w := words[i]
		value := func(flag string) string {
			if rest := strings.TrimPrefix(w, flag); rest != "" {
				return strings.Trim(rest, `'"`)
			}
			if i++; i == len(words) {
				return ""
			}
			return strings.Trim(words[i], `'"`)
		}
		switch {
		case strings.HasPrefix(w, "-X"):
			e.Method = value("-X")
		case strings.HasPrefix(w, "-H"):
			name, content, _ := strings.Cut(value("-H"), ":")
			e.Headers[strings.ToLower(name)] = strings.TrimSpace(content)
		case w == "--data" || w == "-d":
			i++
			if i == len(words) {
				return nil, false, fmt.Errorf("%s without a value", w)
			}
			if file = strings.HasPrefix(words[i], "@"); !file {
				e.Body = strings.Trim(words[i], "'")
			}
			if e.Method == http.MethodGet {
				e.Method = http.MethodPost
			}
		case strings.HasPrefix(w, "http://"), strings.HasPrefix(w, "https://"):
			e.URL = w
		case strings.HasPrefix(w, "localhost:"): // curl takes it for http
			e.URL = "http://" + w
		}
	}
	if !regexp.MustCompile(`^https?://[^/]*:56\d\d/`).MatchString(e.URL) {
		return nil, false, nil
	}
	return e, file, nil
}
