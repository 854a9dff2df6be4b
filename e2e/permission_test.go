package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"
)

// withdrawal is how long an open connection may outlive its permission.
const withdrawal = 5 * time.Second

// permits is a TrafficPermission from one service to another.
func permits(from, to string) string {
	return fmt.Sprintf(`{"sources": [{"match": {"kuma.io/service": %q}}], "destinations": [{"match": {"kuma.io/service": %q}}]}`, from, to)
}

// guarded is a mesh with mTLS: web calls a web server, an echo, and a server that speaks first.
type guarded struct {
	zone controlPlane
	// Addresses at which web finds them.
	http, echo, greeter string
	// more has the web server's open streams send another line.
	more chan string
}

func newGuarded(t *testing.T) *guarded {
	t.Helper()
	envoy(t)
	g := &guarded{zone: processes{}.zone(t, zoneOptions{}), more: make(chan string)}
	token := dataplaneToken(t, g.zone, "")
	put(t, g.zone, "/meshes/default", secured("1h"))
	stream, plain := streams(t, g.more), freePort(t)
	processes{}.proxy(t, g.zone, proxyOptions{token: token, dataplane: fmt.Sprintf(`type: Dataplane
mesh: default
name: callee
networking:
  address: 127.0.0.1
  inbound:
  - {port: %d, servicePort: %d, tags: {kuma.io/service: backend, kuma.io/protocol: http}}
  - {port: %d, servicePort: %d, tags: {kuma.io/service: echo, kuma.io/protocol: tcp}}
  - {port: %d, servicePort: %d, tags: {kuma.io/service: greeter, kuma.io/protocol: tcp}}
`, plain, stream, freePort(t), echo(t), freePort(t), greeter(t))})
	ports := []int{freePort(t), freePort(t), freePort(t)}
	g.http, g.echo, g.greeter = local(ports[0]), local(ports[1]), local(ports[2])
	processes{}.proxy(t, g.zone, proxyOptions{token: token, dataplane: fmt.Sprintf(`%s  - {port: %d, tags: {kuma.io/service: echo}}
  - {port: %d, tags: {kuma.io/service: greeter}}
`, web(t, "caller", ports[0]), ports[1], ports[2])})
	return g
}

func local(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }

// streams is a web server that answers requests, and keeps the answer to /stream open: each text makes a line of it.
func streams(t *testing.T, more <-chan string) int {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"service": "backend"}`) })
	mux.HandleFunc("/stream", func(w http.ResponseWriter, r *http.Request) {
		line := "open"
		for {
			_, _ = fmt.Fprintln(w, line)
			_ = http.NewResponseController(w).Flush()
			select {
			case line = <-more:
			case <-r.Context().Done():
				return
			}
		}
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, l, err)
	s := &http.Server{Handler: mux}
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close(); <-done })
	return l.Addr().(*net.TCPAddr).Port
}

// greeter is a TCP server that speaks first.
func greeter(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, l, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, "welcome\n")
			_ = c.Close()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	return l.Addr().(*net.TCPAddr).Port
}

// allow writes a permission and waits until the proxies have it.
func (g *guarded) allow(t *testing.T, name, from, to string) {
	t.Helper()
	g.await(t, put(t, g.zone, "/meshes/default/traffic-permissions/"+name, permits(from, to)))
}

func (g *guarded) await(t *testing.T, rev uint64) {
	t.Helper()
	if err := g.zone.client().Await(within(t, 5*time.Second), rev); err != nil {
		t.Fatal(err)
	}
}

func (g *guarded) forget(t *testing.T, name string) {
	t.Helper()
	rev, err := g.zone.client().Delete(t.Context(), "/meshes/default/traffic-permissions/"+name)
	must(t, rev, err)
	g.await(t, rev)
}

// lets waits until new requests and connections pass, or do not. What a caller's Envoy has open it may still use for
// as long as an open connection lives.
func (g *guarded) lets(t *testing.T, what string, backend, echo bool) {
	t.Helper()
	until(t, withdrawal, what, func(ctx context.Context) error {
		if err := call(ctx, g.http); (err == nil) != backend {
			return fmt.Errorf("backend: %w", err)
		}
		if err := hello(ctx, g.echo); (err == nil) != echo {
			return fmt.Errorf("echo: %w", err)
		}
		return nil
	})
}

// greeting is what the server that speaks first says on a new connection.
func (g *guarded) greeting(t *testing.T) string {
	t.Helper()
	c, err := (&net.Dialer{}).DialContext(within(t, 5*time.Second), "tcp", g.greeter)
	must(t, c, err)
	defer c.Close()
	must(t, 0, c.SetDeadline(time.Now().Add(5*time.Second)))
	said, err := io.ReadAll(c)
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		t.Errorf("the connection stays open: %v", err)
	}
	return string(said)
}

// One permission holds for an inbound: it lets in whom it names, a narrower one replaces a wider one, and without
// any nobody comes in.
func TestPermission(t *testing.T) {
	g := newGuarded(t)
	until(t, 5*time.Second, "all is let in", func(ctx context.Context) error {
		return errors.Join(call(ctx, g.http), hello(ctx, g.echo))
	})
	if got := g.greeting(t); got != "welcome\n" {
		t.Errorf("the greeter says %q", got)
	}
	g.allow(t, "narrow", "other", "echo")
	g.lets(t, "a narrow permission replaces the one for all", true, false)
	g.allow(t, "narrow", "web", "echo")
	g.lets(t, "the caller is named", true, true)
	g.allow(t, "narrow", "other", "*")
	g.lets(t, "the newer of two that match as closely holds", false, false)
	if got := g.greeting(t); got != "" {
		t.Errorf("the greeter says %q to whom it must not", got)
	}
	g.forget(t, "narrow")
	g.lets(t, "it is gone", true, true)
	g.forget(t, "allow-all-default")
	g.lets(t, "there is none", false, false)
	if got := g.greeting(t); got != "" {
		t.Errorf("the greeter says %q to whom it must not", got)
	}
}

// A withdrawn permission cuts what is open: TCP connections and long answers of HTTP; those of other inbounds go on.
func TestWithdrawnPermission(t *testing.T) {
	g := newGuarded(t)
	until(t, 5*time.Second, "all is let in", func(ctx context.Context) error {
		return errors.Join(call(ctx, g.http), hello(ctx, g.echo))
	})
	c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", g.echo)
	must(t, c, err)
	defer c.Close()
	must(t, 0, c.SetDeadline(time.Now().Add(20*time.Second)))
	tcp := bufio.NewReader(c)
	_, err = io.WriteString(c, "hello\n")
	must(t, 0, err)
	said, err := tcp.ReadString('\n')
	if must(t, said, err) != "hello\n" {
		t.Fatalf("the echo says %q", said)
	}
	request, err := http.NewRequestWithContext(within(t, 20*time.Second), http.MethodGet, "http://"+g.http+"/stream", nil)
	must(t, request, err)
	answer, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(request)
	must(t, answer, err)
	defer answer.Body.Close()
	stream := bufio.NewReader(answer.Body)
	if line, err := stream.ReadString('\n'); line != "open\n" {
		t.Fatalf("the stream says %q: %v", line, err)
	}

	began := time.Now()
	g.allow(t, "narrow", "other", "echo")
	if rest, err := tcp.ReadString('\n'); err == nil || rest != "" {
		t.Errorf("the connection says %q, %v", rest, err)
	}
	took := time.Since(began)
	t.Logf("the open TCP connection was cut after %v", took.Round(time.Millisecond))
	if took > withdrawal {
		t.Errorf("that is more than %v", withdrawal)
	}
	select {
	case g.more <- "more":
	case <-time.After(5 * time.Second):
		t.Fatal("the stream of another inbound is gone")
	}
	if line, err := stream.ReadString('\n'); line != "more\n" {
		t.Fatalf("the stream of another inbound says %q: %v", line, err)
	}

	began = time.Now()
	g.allow(t, "narrow-http", "other", "backend")
	if rest, err := stream.ReadString('\n'); err == nil {
		t.Errorf("the stream says %q", rest)
	}
	took = time.Since(began)
	t.Logf("the open HTTP answer was cut after %v", took.Round(time.Millisecond))
	if took > withdrawal {
		t.Errorf("that is more than %v", withdrawal)
	}
	g.lets(t, "both are withdrawn", false, false)
}
