package zonedp

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"go.uber.org/goleak"
)

// The test binary runs itself as Envoy, and as zone-dp where a process of its own is needed.
const (
	// fakeVariable says how the fake Envoy behaves: "serve", "exit 7", "deaf" (to SIGTERM), or "unready".
	fakeVariable = "FAKE_ENVOY"
	// fakeLog is a file in which the fake Envoy notes what happens to it, a line each.
	fakeLog = "FAKE_ENVOY_LOG"
	// runVariable makes the binary zone-dp with the control plane of this address.
	runVariable = "FAKE_ZONE_DP"
)

func TestMain(m *testing.M) {
	switch {
	case os.Getenv(fakeVariable) != "" && len(os.Args) > 1 && (os.Args[1] == "--version" || os.Args[1] == "-c"):
		os.Exit(fakeEnvoy(os.Args))
	case os.Getenv(runVariable) != "":
		os.Exit(zoneDP(os.Getenv(runVariable)))
	}
	goleak.VerifyTestMain(m)
}

func zoneDP(address string) int {
	self, err := os.Executable()
	if err != nil {
		panic(err)
	}
	o := defaults()
	o.CPAddress, o.BinaryPath = address, self
	p, err := New(o, slog.New(slog.DiscardHandler), os.Stderr)
	if err != nil {
		panic(err)
	}
	go func() {
		<-p.Ready()
		fmt.Println("ready")
	}()
	if err := p.Run(context.Background()); err != nil {
		panic(err)
	}
	return 0
}

func note(format string, args ...any) {
	f, err := os.OpenFile(os.Getenv(fakeLog), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		panic(err)
	}
	defer func() { _ = f.Close() }()
	_, _ = fmt.Fprintf(f, format+"\n", args...)
}

// fakeEnvoy does with its command line and its admin port what zone-dp sees of a real one.
func fakeEnvoy(args []string) int {
	if args[1] == "--version" {
		fmt.Printf("\n%s  version: 0ee1b9/1.40.0/Clean/RELEASE/BoringSSL\n\n", args[0])
		return 0
	}
	behave := os.Getenv(fakeVariable)
	note("args %s", strings.Join(args[3:], " "))
	info, err := os.Stat(args[2])
	if err != nil {
		panic(err)
	}
	note("mode %o", info.Mode().Perm())
	if code, ok := strings.CutPrefix(behave, "exit "); ok {
		n, _ := strconv.Atoi(code)
		return n
	}
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	bootstrap, err := os.ReadFile(args[2])
	if err != nil {
		panic(err)
	}
	address, err := adminAddress(bootstrap)
	if err != nil {
		panic(err)
	}
	if address != "" {
		l, err := net.Listen("tcp", address)
		if err != nil {
			panic(err)
		}
		var looks atomic.Int32
		admin := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/ready":
				if looks.Add(1) < 3 || behave == "unready" {
					http.Error(w, "PRE_INITIALIZING", http.StatusServiceUnavailable)
				}
			case "/listeners":
				_, _ = io.WriteString(w, `{"listener_statuses":[
					{"name":"inbound:127.0.0.1:8080","local_address":{"socket_address":{"address":"127.0.0.1","port_value":8080}}},
					{"name":"outbound:127.0.0.1:9090","local_address":{"socket_address":{"address":"127.0.0.1","port_value":9090}}}]}`)
			case "/die":
				os.Exit(7)
			default:
				note("%s %s", r.Method, r.URL)
			}
		})
		go func() { _ = http.Serve(l, admin) }()
	}
	note("started")
	for range term {
		note("SIGTERM")
		if behave != "deaf" {
			return 0
		}
	}
	return 0
}

// notes gives what the fake Envoy has noted.
func notes(t *testing.T) []string {
	t.Helper()
	f, err := os.Open(os.Getenv(fakeLog))
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	var lines []string
	for s := bufio.NewScanner(f); s.Scan(); {
		lines = append(lines, s.Text())
	}
	return lines
}
