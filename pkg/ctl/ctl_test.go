package ctl

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"meridianctl": func() {
		root := &cobra.Command{
			Use: "meridianctl", SilenceErrors: true, SilenceUsage: true,
			RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
		}
		AddCommands(root)
		if err := root.Execute(); err != nil {
			fmt.Fprintln(os.Stderr, "Error:", err)
			var status interface{ ExitCode() int }
			if errors.As(err, &status) {
				os.Exit(status.ExitCode())
			}
			os.Exit(1)
		}
	}})
}

// TestScripts runs the scripts against a server that answers with the files in the script's directory answers/:
// METHOD_path_with_underscores, the first line being the status. It notes each request in the file requests.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:  "testdata",
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits, "mode": mode},
		Setup: func(env *testscript.Env) error {
			secure := httptest.NewUnstartedServer(&server{dir: env.WorkDir})
			secure.Config.ErrorLog = log.New(io.Discard, "", 0)
			secure.StartTLS()
			env.Defer(secure.Close)
			srv := httptest.NewServer(&server{dir: env.WorkDir, secure: secure.URL})
			env.Defer(srv.Close)
			env.Setenv("ADDRESS", srv.URL)
			env.Setenv("GORACE", "atexit_sleep_ms=0") // else each command takes a second to end
			env.Setenv("SECURE", secure.URL)
			return nil
		},
	})
}

// exits runs a command that must end with the status that is its first argument.
func exits(ts *testscript.TestScript, _ bool, args []string) {
	err := ts.Exec(args[1], args[2:]...)
	var exit *exec.ExitError
	status := 0
	if errors.As(err, &exit) {
		status = exit.ExitCode()
	}
	if fmt.Sprint(status) != args[0] {
		ts.Fatalf("it ends with status %d (%v), want %s", status, err, args[0])
	}
}

// mode compares the mode of a file.
func mode(ts *testscript.TestScript, _ bool, args []string) {
	info, err := os.Stat(ts.MkAbs(args[1]))
	ts.Check(err)
	if got := fmt.Sprintf("%04o", info.Mode()); got != args[0] {
		ts.Fatalf("%s has the mode %s, want %s", args[1], got, args[0])
	}
}

type server struct {
	dir, secure string
	mu          sync.Mutex
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.URL.Path == "/" { // asked before each command
		hello, err := os.ReadFile(filepath.Join(s.dir, "hello"))
		if err != nil {
			w.WriteHeader(http.StatusNotFound)
		}
		_, _ = w.Write(hello)
		return
	}
	body, _ := io.ReadAll(r.Body)
	uri, _ := url.PathUnescape(r.URL.RequestURI())
	f, err := os.OpenFile(filepath.Join(s.dir, "requests"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		panic(err)
	}
	defer func() { _ = f.Close() }()
	_, _ = fmt.Fprintf(f, "%s %s\n", r.Method, uri)
	if a := r.Header.Get("Authorization"); a != "" {
		_, _ = fmt.Fprintf(f, "as %s\n", a)
	}
	if len(body) > 0 {
		_, _ = fmt.Fprintf(f, "%s\n%s\n", r.Header.Get("Content-Type"), strings.TrimRight(string(body), "\n"))
	}
	name := strings.NewReplacer("/", "_", "?", "_", "&", "_", "=", "_").Replace(r.Method + uri)
	answer, err := os.ReadFile(filepath.Join(s.dir, "answers", name))
	if err != nil {
		http.Error(w, "404: Not Found, no answer "+name, http.StatusNotFound)
		return
	}
	first, rest, _ := strings.Cut(string(answer), "\n")
	var status int
	if _, err := fmt.Sscan(first, &status); err != nil {
		panic(err)
	}
	if r.Method == http.MethodPut || r.Method == http.MethodDelete {
		w.Header().Set("Meridian-Revision", "812")
	}
	if r.URL.Path == "/batch" {
		w.Header().Set("Warning", `299 - "put[1]: the tag \"service\" is read"`)
	}
	w.WriteHeader(status)
	_, _ = io.WriteString(w, strings.NewReplacer("$HOST", r.Host, "$SECURE", s.secure).Replace(rest))
}

func TestParseDocuments(t *testing.T) {
	for name, tt := range map[string]struct {
		text string
		want []string // "type name mesh content-type"
		err  string
	}{
		"one":             {"type: Mesh\nname: a\n", []string{"Mesh a  application/yaml"}, ""},
		"several":         {"# first\n---\ntype: Mesh\nname: a\n--- # next\n\n---\ntype: Retry\nname: b\nmesh: a\n...\n", []string{"Mesh a  application/yaml", "Retry b a application/yaml"}, ""},
		"text with a cut": {"type: Mesh\nname: a\nx: |\n  ---\n  y\n", []string{"Mesh a  application/yaml"}, ""},
		"JSON":            {` {"type":"Mesh","name":"a"} {"type":"Retry","name":"b","mesh":"a"}`, []string{"Mesh a  application/json", "Retry b a application/json"}, ""},
		"flow":            {"{type: Mesh, name: a}", []string{"Mesh a  application/yaml"}, ""},
		"windows":         {"type: Mesh\r\nname: a\r\n---\r\ntype: Mesh\r\nname: b\r\n", []string{"Mesh a  application/yaml", "Mesh b  application/yaml"}, ""},
		"nothing":         {"---\n# nothing\n---\n", nil, ""},
		"empty":           {"", nil, ""},
		"broken":          {"a: b\n---\na: b: c\n", nil, "document 2: "},
		"no mapping":      {"- a\n", nil, "document 1: "},
		"no text":         {"type: [a]\n", nil, "document 1: "},
	} {
		docs, err := parseDocuments([]byte(tt.text))
		if (err != nil) != (tt.err != "") || err != nil && (!strings.HasPrefix(err.Error(), tt.err) || strings.Contains(err.Error(), "\n")) {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var got []string
		for _, d := range docs {
			got = append(got, strings.Join([]string{d.Type, d.Name, d.Mesh, d.contentType}, " "))
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s:\n%s", name, diff)
		}
	}
}

func FuzzParseDocuments(f *testing.F) {
	f.Add([]byte("type: Mesh\n---\nname: a\n"))
	f.Add([]byte(`{"type":"Mesh"}`))
	f.Add([]byte("a: &a [*a]"))
	f.Fuzz(func(_ *testing.T, data []byte) { _, _ = parseDocuments(data) })
}

func FuzzRefusal(f *testing.F) {
	f.Add([]byte(`{"title":"a","details":"b","causes":[{"field":"c","message":"d"}]}`))
	f.Add([]byte(`{"title":1}`))
	f.Add([]byte(`405`))
	f.Fuzz(func(t *testing.T, body []byte) {
		var e *APIError
		if err := refusal(400, body); !errors.As(err, &e) || err.Error() == "" {
			t.Errorf("%q: %v", body, err)
		}
	})
}

func TestNumber(t *testing.T) {
	for raw, want := range map[string]string{`"12"`: "12", `12`: "12", `null`: "-", ``: "-", `""`: "-"} {
		if got := number(json.RawMessage(raw)); got != want {
			t.Errorf("%s: %s", raw, got)
		}
	}
}
