package e2e

import (
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

//go:embed manual/testdata
var manualFiles embed.FS

// manual is what the published client's manual shows, as the extractor wrote it.
type manual struct {
	Commands []struct {
		Line        int
		Text, Stdin string
	}
	Objects []struct {
		Line int
		Text string
	}
}

// translation is a row of the table of commands: what is run in place of an old command.
type translation struct {
	old  string
	runs []string
}

func readManual(t *testing.T) (m manual, table []translation) {
	t.Helper()
	raw, err := manualFiles.ReadFile("manual/testdata/manual.json")
	must(t, raw, err)
	if err := json.Unmarshal(raw, &m); err != nil {
		t.Fatal(err)
	}
	raw, err = manualFiles.ReadFile("manual/testdata/commands.txt")
	must(t, raw, err)
	for line := range strings.Lines(string(raw)) {
		line = strings.TrimRight(line, "\n")
		switch {
		case line == "" || line[0] == '#':
		case line[0] == '\t':
			last := &table[len(table)-1]
			last.runs = append(last.runs, line[1:])
		default:
			table = append(table, translation{old: line})
		}
	}
	for i, row := range table {
		if row.runs == nil {
			table[i].runs = []string{"meridianctl" + strings.TrimPrefix(row.old, "kumactl")}
		}
	}
	return m, table
}

// environment is what meridianctl is run with: its own home and nothing of ours.
func environment(t *testing.T, home string, cp controlPlane) []string {
	t.Helper()
	cert, key, _ := ownCA(t)
	return []string{
		"PATH=" + suite.programs.Dir + string(os.PathListSeparator) + os.Getenv("PATH"), "HOME=" + home,
		"ADDRESS=http://" + cp.addr("http"), "HTTPS=https://" + cp.addr("https"), "CA=" + cp.caFile(),
		"OWN_CERT=" + cert, "OWN_KEY=" + key,
	}
}

// TestManual runs what stands for each command of the published client, in particular for all that its manual shows,
// and applies every object of that manual.
func TestManual(t *testing.T) {
	t.Parallel()
	m, table := readManual(t)
	cp := inProcess{}.zone(t, zoneOptions{})
	dir := t.TempDir()
	env := environment(t, dir, cp)
	run := func(stdin, line string) error {
		line, fails := strings.CutPrefix(line, "! ")
		c := exec.CommandContext(within(t, 20*time.Second), "sh", "-ec", line)
		c.Dir, c.Env, c.Stdin = dir, env, strings.NewReader(stdin)
		out, err := c.CombinedOutput()
		switch {
		case fails && err == nil:
			return fmt.Errorf("%s: does not fail\n%s", line, out)
		case !fails && err != nil:
			return fmt.Errorf("%s: %w\n%s", line, err, out)
		}
		return nil
	}
	if err := run("", "meridianctl config control-planes add --name here --address $ADDRESS"); err != nil {
		t.Fatal(err)
	}

	shown := map[string][]string{} // command: what is piped into it, where it is shown
	for _, c := range m.Commands {
		shown[c.Text] = append(shown[c.Text], c.Stdin)
	}
	for _, row := range table {
		stdin := shown[row.old]
		delete(shown, row.old)
		if stdin == nil {
			stdin = []string{""}
		}
		for _, in := range stdin {
			for _, line := range row.runs {
				if err := run(in, line); err != nil {
					t.Errorf("%s: %v", row.old, err)
				}
			}
		}
	}
	for text := range shown {
		t.Errorf("the table has no row for: %s", text)
	}

	for _, o := range m.Objects {
		if err := run(o.Text, "meridianctl apply -f -"); err != nil {
			t.Errorf("line %d: %v", o.Line, err)
		}
	}
	// The bodies of its HTTP API are files for apply too.
	raw, err := transcripts.ReadFile("transcripts/testdata/0.4.json")
	must(t, raw, err)
	var all []exchange
	if err := json.Unmarshal(raw, &all); err != nil {
		t.Fatal(err)
	}
	bodies := 0
	for _, e := range all {
		if e.Method != http.MethodPut {
			continue
		}
		bodies++
		if err := run(e.Body, "meridianctl apply -m mesh-1 -f -"); err != nil {
			t.Errorf("line %d: %v", e.Line, err)
		}
	}
	t.Logf("%d commands of the manual and %d more, %d objects and %d bodies", len(m.Commands), len(table)-len(m.Commands), len(m.Objects), bodies)
}

// TestMeridianctl runs the scripts, all against one standalone zone control plane and one global one. Each has a mesh
// of its own, named as it is.
func TestMeridianctl(t *testing.T) {
	zone, global := inProcess{}.zone(t, zoneOptions{}), inProcess{}.global(t)
	inProcess{}.proxy(t, zone, proxyOptions{dataplane: backend(t, "default", "v1"), token: dataplaneToken(t, zone, "")})
	testscript.Run(t, testscript.Params{
		Dir: "testdata/meridianctl",
		Setup: func(env *testscript.Env) error {
			env.Vars = append(env.Vars, environment(t, env.WorkDir, zone)...)
			env.Setenv("GLOBAL", "http://"+global.addr("http"))
			for _, address := range []string{"$GLOBAL", "$ADDRESS"} {
				add := exec.Command(suite.programs.Path("meridianctl"), "config", "control-planes", "add", "--name", strings.ToLower(address[1:]),
					"--address", env.Getenv(address[1:]))
				add.Env = env.Vars
				if out, err := add.CombinedOutput(); err != nil {
					return fmt.Errorf("%w: %s", err, out)
				}
			}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits},
		Condition: func(cond string) (bool, error) {
			name, ok := strings.CutPrefix(cond, "has:")
			if !ok {
				return false, fmt.Errorf("unknown condition %q", cond)
			}
			if _, err := exec.LookPath(name); err != nil {
				t.Logf("SKIPPED a part of %s: %s is not installed", t.Name(), name)
				if suite.require {
					return false, err
				}
				return false, nil
			}
			return true, nil
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
	} else {
		ts.Check(err)
	}
	if fmt.Sprint(status) != args[0] {
		ts.Fatalf("it ends with status %d, want %s", status, args[0])
	}
}
