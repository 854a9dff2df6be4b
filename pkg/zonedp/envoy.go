package zonedp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	// versionTime is how long Envoy may take to say its version.
	versionTime = 10 * time.Second
	// adminTime is how long an answer of Envoy's admin may take.
	adminTime = 2 * time.Second
	// killTime is how long Envoy may take to end after SIGTERM.
	killTime = 2 * time.Second
	// Between two looks at whether Envoy is ready.
	minLook, maxLook = 5 * time.Millisecond, 100 * time.Millisecond
	// maxAdmin bounds what is read of an answer of Envoy's admin, in bytes.
	maxAdmin = 16 << 20
)

// findEnvoy gives the path of the binary.
func findEnvoy(path string) (string, error) {
	if path == "" {
		path = "envoy"
	}
	found, err := exec.LookPath(path)
	if err != nil {
		return "", fmt.Errorf("envoy: %w; give --binary-path, or set ENVOY", err)
	}
	return found, nil
}

// envoyVersion is what Envoy says of itself.
type envoyVersion struct {
	Version string `json:"version"`
	Build   string `json:"build"`
}

var versionLine = regexp.MustCompile(`version:\s*(\S+)`)

// askVersion runs Envoy to learn its version.
func askVersion(ctx context.Context, path string) (envoyVersion, error) {
	limited, cancel := context.WithTimeout(ctx, versionTime)
	defer cancel()
	out, err := exec.CommandContext(limited, path, "--version").Output()
	if err != nil {
		if ctx.Err() != nil { // Envoy was killed for us: that says nothing of it
			return envoyVersion{}, ctx.Err()
		}
		return envoyVersion{}, fmt.Errorf("%s --version: %w", path, err)
	}
	m := versionLine.FindSubmatch(out)
	if m == nil {
		return envoyVersion{}, fmt.Errorf("%s --version: names no version", path)
	}
	v := envoyVersion{Build: string(m[1]), Version: string(m[1])}
	// commit/1.40.0/Clean/RELEASE/BoringSSL
	if parts := strings.Split(v.Build, "/"); len(parts) > 1 {
		v.Version = parts[1]
	}
	return v, nil
}

// EnvoyExitError is how Envoy ended when nobody told it to.
type EnvoyExitError struct{ Status int }

// Error implements error.
func (e *EnvoyExitError) Error() string { return fmt.Sprintf("envoy ended with status %d", e.Status) }

// ExitCode is the status to end with.
func (e *EnvoyExitError) ExitCode() int { return e.Status }

// envoy is a running Envoy.
type envoy struct {
	process *os.Process
	// ended is closed when Envoy has ended, with status.
	ended  chan struct{}
	status int
}

// startEnvoy starts Envoy in a process group of its own, so that a Ctrl-C on the terminal reaches it by us, and
// such that it dies with us.
func startEnvoy(path, bootstrap string, out io.Writer) (*envoy, error) {
	cmd := exec.Command(path, //nolint:gosec // the operator names the binary
		"-c", bootstrap, "--drain-time-s", "4", "--drain-strategy", "immediate", "--disable-hot-restart", "-l", "warning")
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = processAttributes()
	cmd.WaitDelay = time.Second
	e := &envoy{ended: make(chan struct{})}
	started := make(chan error)
	go func() {
		// The kernel ties Envoy's life to that of the thread that started it: keep it.
		runtime.LockOSThread()
		err := cmd.Start()
		if err == nil {
			e.process = cmd.Process
		}
		started <- err
		if err != nil {
			return
		}
		_ = cmd.Wait() // The state says it all.
		e.status = exitStatus(cmd.ProcessState)
		close(e.ended)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("envoy: %w", err)
	}
	return e, nil
}

// exitStatus is the status as a shell would give it.
func exitStatus(s *os.ProcessState) int {
	if w, ok := s.Sys().(syscall.WaitStatus); ok && w.Signaled() {
		return 128 + int(w.Signal())
	}
	return s.ExitCode()
}

// stop ends Envoy and waits for its end.
func (e *envoy) stop() {
	// An error means that it has ended.
	_ = e.process.Signal(syscall.SIGTERM)
	timer := time.NewTimer(killTime)
	defer timer.Stop()
	select {
	case <-e.ended:
	case <-timer.C:
		_ = e.process.Kill()
		<-e.ended
	}
}

// admin is Envoy's admin port.
type admin struct {
	address string
	http    *http.Client
}

func newAdmin(address string) *admin {
	return &admin{address, &http.Client{Transport: &http.Transport{}, Timeout: adminTime}}
}

func (a *admin) close() { a.http.CloseIdleConnections() }

func (a *admin) do(ctx context.Context, method, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://"+a.address+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := a.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAdmin))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("envoy's admin: %s: %s", path, resp.Status)
	}
	return body, nil
}

var errEnded = errors.New("envoy has ended")

// awaitReady returns when Envoy serves: it has its first complete configuration. Envoy tells nobody, so it is
// asked until then.
func (a *admin) awaitReady(ctx context.Context, e *envoy) error {
	wait := minLook
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-e.ended:
			return errEnded
		case <-timer.C:
		}
		if _, err := a.do(ctx, http.MethodGet, "/ready"); err == nil {
			return nil
		}
		wait = min(wait*3/2, maxLook)
		timer.Reset(wait)
	}
}

// inbounds gives the addresses of the listeners for inbound traffic, by the listeners' names.
func (a *admin) inbounds(ctx context.Context) (map[string]string, error) {
	body, err := a.do(ctx, http.MethodGet, "/listeners?format=json")
	if err != nil {
		return nil, err
	}
	var list struct {
		Statuses []struct {
			Name    string `json:"name"`
			Address struct {
				Socket struct {
					Address string `json:"address"`
					Port    uint16 `json:"port_value"`
				} `json:"socket_address"`
			} `json:"local_address"`
		} `json:"listener_statuses"`
	}
	if err := json.Unmarshal(body, &list); err != nil {
		return nil, fmt.Errorf("envoy's admin: /listeners: %w", err)
	}
	out := map[string]string{}
	for _, s := range list.Statuses {
		if strings.HasPrefix(s.Name, "inbound:") {
			out[s.Name] = net.JoinHostPort(s.Address.Socket.Address, strconv.Itoa(int(s.Address.Socket.Port)))
		}
	}
	return out, nil
}

// drain makes Envoy tell its clients to go elsewhere, while it goes on serving. Only the inbounds stop listening
// after a while: to answer what it still has, the workload needs the outbounds to the end.
func (a *admin) drain(ctx context.Context) error {
	_, failErr := a.do(ctx, http.MethodPost, "/healthcheck/fail")
	_, drainErr := a.do(ctx, http.MethodPost, "/drain_listeners?graceful&inboundonly")
	return errors.Join(failErr, drainErr)
}

// takePort gives the first port of a range that is free, and a function that gives it back.
func takePort(low, high uint16) (uint16, func(), error) {
	for port := int(low); port <= int(high); port++ {
		release, ok := claimPort(port)
		if !ok {
			continue
		}
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			release()
			continue
		}
		_ = l.Close()
		return uint16(port), release, nil
	}
	return 0, nil, fmt.Errorf("--admin-port: no free port from %d to %d", low, high)
}
