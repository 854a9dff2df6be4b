// Package cli is what Meridian's programs have in common on the command line: how they start, say that they are
// ready, fail in one line, and end.
package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/meridian-mesh/meridian/pkg/version"
)

// Process is something that runs until its context ends.
type Process interface {
	Run(ctx context.Context) error
	// Ready is closed when the process serves; then Addrs holds.
	Ready() <-chan struct{}
	Addrs() map[string]string
}

// Root makes the command of a program, with the command version beside those given.
func Root(name, short string, commands ...*cobra.Command) *cobra.Command {
	root := &cobra.Command{Use: name, Short: short, SilenceErrors: true, SilenceUsage: true, Args: cobra.NoArgs}
	// A command that runs refuses arguments, and so names a subcommand that there is not.
	root.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddCommand(append(commands, versionCommand())...)
	return root
}

func versionCommand() *cobra.Command {
	var detailed, all bool
	c := &cobra.Command{
		Use: "version", Short: "Print which build this is", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			text := version.Get().Version + "\n"
			if detailed || all {
				text = version.Get().Detailed()
			}
			_, err := io.WriteString(c.OutOrStdout(), text)
			return err
		},
	}
	c.Flags().BoolVar(&detailed, "detailed", false, "with tag, commit and date")
	c.Flags().BoolVarP(&all, "all", "a", false, "the same as --detailed")
	return c
}

// Main runs a command until it ends or a signal ends it, and gives the exit status. A second signal ends the
// process at once. An error is one line on stderr.
func Main(root *cobra.Command) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	// From the first signal on, the next one does what signals do.
	context.AfterFunc(ctx, stop)
	return Status(os.Stderr, root.ExecuteContext(ctx))
}

// Status gives the exit status that an error asks for (one that has an ExitCode method asks for its own) and
// prints the error in one line, unless it says by a Multiline method that it is meant to be shown in lines.
func Status(stderr io.Writer, err error) int {
	if err == nil {
		return 0
	}
	text := err.Error()
	var lines interface{ Multiline() bool }
	if !errors.As(err, &lines) || !lines.Multiline() {
		text = strings.Join(strings.FieldsFunc(text, func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
	}
	// It may quote what others wrote, and a terminal is not to obey them.
	text = strings.Map(func(r rune) rune {
		if r != '\n' && unicode.IsControl(r) {
			return '?'
		}
		return r
	}, text)
	_, _ = fmt.Fprintln(stderr, "Error:", text)
	var status interface{ ExitCode() int }
	if errors.As(err, &status) {
		return status.ExitCode()
	}
	return 1
}

// Serve runs a process, prints the ready line, and lets the held log go from then on. If grace is not zero, a
// process that has not ended so long after ctx is given up.
func Serve(ctx context.Context, p Process, stdout io.Writer, log *Held, grace time.Duration) error {
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	select {
	case err := <-ended:
		return err
	case <-p.Ready():
	}
	log.Release()
	line, err := json.Marshal(struct {
		Ready     bool              `json:"ready"`
		Addresses map[string]string `json:"addresses"`
	}{true, p.Addrs()})
	if err != nil {
		return fmt.Errorf("ready line: %w", err)
	}
	// Whoever started the process may have closed its stdout; it serves all the same.
	_, _ = stdout.Write(append(line, '\n'))
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	if grace == 0 {
		return <-ended
	}
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case err := <-ended:
		return err
	case <-timer.C:
		return fmt.Errorf("did not end within %s", grace)
	}
}

// Held is a log that is held back while a process starts: a start that fails says why in one line, and nothing
// besides. It is safe for concurrent use.
type Held struct {
	out io.Writer

	mu       sync.Mutex
	held     bytes.Buffer
	released bool
}

// maxHeld is how much of a log is held back, in bytes; a start that says more is no quiet one.
const maxHeld = 1 << 20

// Hold holds back what will be written to out.
func Hold(out io.Writer) *Held { return &Held{out: out} }

// Write implements io.Writer.
func (h *Held) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.released && h.held.Len()+len(p) > maxHeld {
		h.release()
	}
	if h.released {
		return h.out.Write(p)
	}
	return h.held.Write(p)
}

// Release writes out what was held back; what comes later is written at once.
func (h *Held) Release() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.release()
}

func (h *Held) release() {
	if h.released {
		return
	}
	h.released = true
	_, _ = h.held.WriteTo(h.out)
	h.held = bytes.Buffer{}
}
