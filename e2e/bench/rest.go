package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/meridian-mesh/meridian/e2e/harness"
)

const (
	// bareArg makes this program a server that only echoes one answer: what HTTP itself costs here.
	bareArg = "bare"
	// listed objects are in the list that is measured.
	listed = 1000
	// restTime is how long each row of the REST API goes on.
	restTime = 3 * time.Second
)

// rest measures the REST API of a global control plane over plain HTTP on loopback, with a store in memory and a
// durable one, next to a bare server of the same process model that answers the same bytes.
type rest struct {
	programs harness.Programs
	dir      string
	report   *report
	// profiles is where CPU profiles of each row go; empty: nowhere.
	profiles string
}

func (r rest) run(ctx context.Context) error {
	for _, backend := range []string{"memory", "sqlite"} {
		if err := r.backend(ctx, backend); err != nil {
			return fmt.Errorf("%s: %w", backend, err)
		}
	}
	return r.insights(ctx)
}

func (r rest) backend(ctx context.Context, backend string) error {
	ports, err := harness.Ports{}.Free()
	if err != nil {
		return err
	}
	global, err := r.programs.Global(filepath.Join(r.dir, "rest-"+backend), ports)
	if err != nil {
		return err
	}
	global.Env = []string{"MERIDIAN_STORE_TYPE=" + backend, "MERIDIAN_DIAGNOSTICS_DEBUG_ENDPOINTS=true"}
	ready, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := global.Start(ready); err != nil {
		return err
	}
	defer func() { _ = global.Stop() }()
	for _, mesh := range []string{"listed", "written"} {
		if _, err := global.Client().Put(ctx, "/meshes/"+mesh, `{}`); err != nil {
			return err
		}
	}
	for i := range listed {
		if _, err := global.Client().Put(ctx, fmt.Sprintf("/meshes/listed/timeouts/t%04d", i), timeout(i)); err != nil {
			return err
		}
	}
	target := server{addr: global.Addr("http"), pid: global.Process().Pid(), diagnostics: global.Addr("diagnostics")}
	get := func(int, int) []byte { return request("GET", "/meshes/listed/timeouts/t0500", "") }
	list := func(int, int) []byte { return request("GET", "/meshes/listed/timeouts?size=1000", "") }
	put := func(client, n int) []byte {
		return request("PUT", fmt.Sprintf("/meshes/written/timeouts/t%d-%d", client, n%50), timeout(n))
	}
	if backend == "memory" { // reads do not touch what keeps the writes
		answer, err := once(ctx, target.addr, get(0, 0))
		if err != nil {
			return err
		}
		if err := r.bare(ctx, answer, get); err != nil {
			return err
		}
		if err := r.rows(ctx, "GET", target, get, goal{latency: 100 * time.Microsecond, rate: 30_000}); err != nil {
			return err
		}
		if err := r.rows(ctx, fmt.Sprintf("list of %d", listed), target, list, goal{latency: 5 * time.Millisecond}); err != nil {
			return err
		}
	}
	wanted := goal{}
	if backend == "sqlite" {
		wanted = goal{latency: 500 * time.Microsecond, rate: 10_000}
	}
	return r.rows(ctx, "PUT, "+backend, target, put, wanted)
}

// bare starts a server of the answer and measures it.
func (r rest) bare(ctx context.Context, answer []byte, get func(int, int) []byte) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, self, bareArg)
	cmd.Stdin, cmd.Stderr = bytes.NewReader(answer), os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	addr, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return err
	}
	return r.rows(ctx, "bare server of the same answer", server{addr: strings.TrimSpace(addr), pid: cmd.Process.Pid}, get, goal{})
}

// runBare serves what it reads from in to whoever asks for anything, and tells its address.
func runBare(in io.Reader, out io.Writer) error {
	answer, err := io.ReadAll(in)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Fprintln(out, l.Addr())
	srv := &http.Server{ReadHeaderTimeout: patience, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(answer)
	})}
	return srv.Serve(l)
}

type server struct {
	addr string
	pid  int
	// diagnostics is where CPU profiles are had; empty: nowhere.
	diagnostics string
}

// goal of a kind of request: with one client, and with several.
type goal struct {
	latency time.Duration
	rate    float64
}

// rows measures a kind of request with one client and with several.
func (r rest) rows(ctx context.Context, what string, to server, req func(client, n int) []byte, wanted goal) error {
	alone, _, _, err := drive(ctx, to, 1, req)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	r.report.durations("REST, "+what+", 1 client", alone, wanted.latency)
	profiled := new(errgroup.Group)
	if r.profiles != "" && to.diagnostics != "" {
		profiled.Go(func() error {
			return profile(ctx, to.diagnostics, 2, filepath.Join(r.profiles, "rest-"+strings.ReplaceAll(what, " ", "-")+".pprof"))
		})
	}
	before, err := commits(ctx, to)
	if err != nil {
		return err
	}
	_, rate, cpu, err := drive(ctx, to, clients, req)
	if err := errors.Join(err, profiled.Wait()); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	ratio := ""
	if wanted.rate > 0 {
		ratio = fmt.Sprintf("%.0f/s (%.2f)", wanted.rate, rate/wanted.rate)
	}
	more := fmt.Sprintf("%s of the server's CPU for each", round(cpu))
	after, err := commits(ctx, to)
	if err != nil {
		return err
	}
	if after > before {
		more += fmt.Sprintf(", %.1f a commit", rate*restTime.Seconds()/(after-before))
	}
	r.report.add(fmt.Sprintf("REST, %s, %d clients", what, clients), fmt.Sprintf("%.0f/s", rate), more, ratio)
	return nil
}

// commits is how many durable commits a control plane has done.
func commits(ctx context.Context, of server) (float64, error) {
	if of.diagnostics == "" {
		return 0, nil
	}
	c := harness.NewClient(of.diagnostics)
	defer c.Close()
	all, _, err := c.Do(ctx, "GET", "/metrics", nil)
	if err != nil {
		return 0, err
	}
	const metric = `meridian_store_sync_seconds_count{log="config"} `
	for line := range strings.Lines(string(all)) {
		if n, ok := strings.CutPrefix(line, metric); ok {
			return strconv.ParseFloat(strings.TrimSpace(n), 64)
		}
	}
	return 0, nil // a store in memory has none
}

// drive sends requests over n connections, each of them one after the other, and gives how long each took on
// the first connection, how many there were a second, and how much CPU the server used for each.
func drive(ctx context.Context, to server, n int, req func(client, n int) []byte) (took series, rate float64, cpu time.Duration, err error) {
	g, ctx := errgroup.WithContext(ctx)
	counts := make([]int, n)
	before, err := cpuTime(to.pid)
	if err != nil {
		return nil, 0, 0, err
	}
	begun := time.Now()
	for client := range n {
		g.Go(func() error {
			c, err := dial(ctx, to.addr)
			if err != nil {
				return err
			}
			defer c.close()
			for time.Since(begun) < restTime {
				b := req(client, counts[client])
				sent := time.Now()
				if _, err := c.do(b); err != nil {
					return err
				}
				if client == 0 {
					took = append(took, time.Since(sent))
				}
				counts[client]++
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, 0, 0, err
	}
	elapsed := time.Since(begun)
	after, err := cpuTime(to.pid)
	if err != nil {
		return nil, 0, 0, err
	}
	all := 0
	for _, c := range counts {
		all += c
	}
	slices.Sort(took)
	return took, float64(all) / elapsed.Seconds(), (after - before) / time.Duration(all), nil
}

// client is a connection that costs this machine, which also runs the server, as little as it can.
type client struct {
	conn net.Conn
	r    *bufio.Reader
	body []byte
}

func dial(ctx context.Context, addr string) (*client, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return &client{conn: conn, r: bufio.NewReader(conn)}, conn.SetDeadline(time.Now().Add(patience))
}

func (c *client) close() { _ = c.conn.Close() }

// do sends a request and gives the body of its answer, which is valid until the next call.
func (c *client) do(request []byte) ([]byte, error) {
	if _, err := c.conn.Write(request); err != nil {
		return nil, err
	}
	resp, err := http.ReadResponse(c.r, nil)
	if err != nil {
		return nil, err
	}
	into := bytes.NewBuffer(c.body[:0])
	_, err = into.ReadFrom(resp.Body)
	c.body = into.Bytes()
	switch {
	case err != nil:
		return nil, err
	case resp.StatusCode >= http.StatusMultipleChoices:
		return nil, fmt.Errorf("%s: %s", resp.Status, c.body)
	case resp.Close:
		return nil, errors.New("the server closes the connection")
	}
	return c.body, nil
}

// once sends one request on a connection of its own.
func once(ctx context.Context, addr string, request []byte) ([]byte, error) {
	c, err := dial(ctx, addr)
	if err != nil {
		return nil, err
	}
	defer c.close()
	return c.do(request)
}

func request(method, path, body string) []byte {
	out := fmt.Appendf(nil, "%s %s HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n", method, path)
	if body != "" {
		out = fmt.Appendf(out, "Content-Type: application/json\r\nContent-Length: %d\r\n", len(body))
	}
	return append(append(out, "\r\n"...), body...)
}

// timeout is a small object; each n gives another one.
func timeout(n int) string {
	return fmt.Sprintf(`{"sources":[{"match":{"kuma.io/service":"other"}}],"destinations":[{"match":{"kuma.io/service":"another"}}],"conf":{"connectTimeout":"%dms"}}`, n+1)
}
