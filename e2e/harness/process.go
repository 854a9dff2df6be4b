// Package harness runs Meridian's programs for tests, the demo and the benchmarks: it starts them on free
// ports, reads their ready lines, keeps their logs and ends them by their process ids.
package harness

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Spec says what to start.
type Spec struct {
	// Name is for errors and logs.
	Name string
	Path string
	Args []string
	// Env is all of the environment but PATH, HOME and TMPDIR.
	Env []string
	// Dir is the working directory; empty: the present one.
	Dir string
	// Log gets what the program writes to stderr; nil: only the last 256 KiB are kept.
	Log io.Writer
}

// Ready is the line that a program prints when it serves.
type Ready struct {
	Ready     bool              `json:"ready"`
	Addresses map[string]string `json:"addresses"`
}

// Process is a running program. Its methods are safe for concurrent use.
type Process struct {
	Name string

	cmd    *exec.Cmd
	stderr *tail
	lines  chan string
	exited chan struct{}
	err    error // set before exited is closed
}

// ErrExited is in the chain of errors about a program that ended.
var ErrExited = errors.New("exited")

// Start starts a program in a process group of its own, so that a Ctrl-C at the terminal reaches only the one
// who started it. If this process dies, the program is told to stop.
func Start(s Spec) (*Process, error) {
	cmd := exec.Command(s.Path, s.Args...)
	cmd.Dir = s.Dir
	cmd.Env = append(cleanEnv(), s.Env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	p := &Process{Name: s.Name, cmd: cmd, stderr: &tail{also: s.Log}, lines: make(chan string, 16), exited: make(chan struct{})}
	cmd.Stderr = p.stderr
	out, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd.Stdout = in

	started := make(chan error, 1)
	go func() {
		// The signal at our death is tied to the thread that started the program, so that must live on.
		runtime.LockOSThread()
		err := cmd.Start()
		_ = in.Close()
		started <- err
		if err != nil {
			return
		}
		p.err = cmd.Wait()
		close(p.exited)
	}()
	if err := <-started; err != nil {
		_ = out.Close()
		return nil, fmt.Errorf("start %s: %w", s.Name, err)
	}
	go func() {
		defer out.Close()
		defer close(p.lines)
		sc := bufio.NewScanner(out)
		for sc.Scan() {
			select {
			case p.lines <- sc.Text():
			default: // nobody reads: only the first lines matter
			}
		}
	}()
	return p, nil
}

// cleanEnv keeps what any program needs. Meridian's programs refuse variables that they do not know, so those
// of the tests must not reach them.
func cleanEnv() []string {
	var env []string
	for _, k := range []string{"PATH", "HOME", "TMPDIR"} {
		if v, ok := os.LookupEnv(k); ok {
			env = append(env, k+"="+v)
		}
	}
	return env
}

// Ready waits for the ready line. It fails with ErrExited, and what the program said, if it ends before.
func (p *Process) Ready(ctx context.Context) (Ready, error) {
	select {
	case line, ok := <-p.lines:
		if !ok {
			<-p.exited
			return Ready{}, p.exitError()
		}
		var r Ready
		if err := json.Unmarshal([]byte(line), &r); err != nil || !r.Ready {
			return Ready{}, fmt.Errorf("%s: first line on stdout is no ready line: %q", p.Name, line)
		}
		return r, nil
	case <-ctx.Done():
		return Ready{}, fmt.Errorf("%s is not ready: %w; it said:\n%s", p.Name, context.Cause(ctx), p.Stderr())
	}
}

// Pid is the process id.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Exited is closed when the program has ended.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// Running says whether the program has not ended.
func (p *Process) Running() bool {
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// Stderr is the last 256 KiB of what the program wrote to stderr.
func (p *Process) Stderr() string { return p.stderr.String() }

// Signal sends a signal.
func (p *Process) Signal(s os.Signal) { _ = p.cmd.Process.Signal(s) }

// Wait waits for the end and gives the exit status; -1 if a signal ended the program.
func (p *Process) Wait(ctx context.Context) (int, error) {
	select {
	case <-p.exited:
		return p.cmd.ProcessState.ExitCode(), nil
	case <-ctx.Done():
		return 0, fmt.Errorf("%s runs on: %w", p.Name, context.Cause(ctx))
	}
}

// Kill ends the program with SIGKILL and waits.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill()
	<-p.exited
}

// Stop asks the program to stop and waits; after patience has passed it is killed, which is an error, as is
// another status than 0.
func (p *Process) Stop(patience time.Duration) error {
	if !p.Running() {
		return p.exitError()
	}
	p.Signal(syscall.SIGTERM)
	t := time.NewTimer(patience)
	defer t.Stop()
	select {
	case <-p.exited:
		if p.cmd.ProcessState.ExitCode() != 0 {
			return p.exitError()
		}
		return nil
	case <-t.C:
		p.Kill()
		return fmt.Errorf("%s did not stop within %s of SIGTERM; it said:\n%s", p.Name, patience, p.Stderr())
	}
}

func (p *Process) exitError() error {
	return fmt.Errorf("%s %w with %s; it said:\n%s", p.Name, ErrExited, p.cmd.ProcessState, p.Stderr())
}

// tail keeps the last of what is written to it.
type tail struct {
	also io.Writer

	mu  sync.Mutex
	buf []byte
}

const tailSize = 256 << 10

// Write implements io.Writer.
func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, b...)
	if len(t.buf) > 2*tailSize {
		t.buf = bytes.Clone(t.buf[len(t.buf)-tailSize:])
	}
	if t.also != nil {
		_, _ = t.also.Write(b)
	}
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimRight(string(t.buf[max(0, len(t.buf)-tailSize):]), "\n")
}
