// Package sample is a small service to put behind a proxy: it names itself, its zone and its version over
// HTTP/1 and HTTP/2 without TLS, answers gRPC health checks on the same port, and can call another service.
package sample

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// Service says who answers.
type Service struct {
	Service string `json:"service"`
	Zone    string `json:"zone"`
	Version string `json:"version"`
	// Calls is the URL that is called for each request to "/"; empty: none.
	Calls string `json:"-"`
}

// Answer is the body of every success.
type Answer struct {
	Service
	Protocol string `json:"protocol"`
	// Called is what the called service said.
	Called *Answer `json:"called,omitempty"`
}

// longest that GET /slow waits.
const longest = time.Minute

// Serve answers on l until the context ends:
//
//	GET /                  who answers, and whom it called
//	GET /slow?for=200ms    the same after a while
//
// and the gRPC health service.
func (s Service) Serve(ctx context.Context, l net.Listener) error {
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 16}}
	defer client.CloseIdleConnections()

	rpc := grpc.NewServer()
	defer rpc.Stop()
	healthpb.RegisterHealthServer(rpc, health.NewServer())

	mux := http.NewServeMux()
	mux.HandleFunc("GET /", func(w http.ResponseWriter, r *http.Request) { s.answer(w, r, client) })
	mux.HandleFunc("GET /slow", func(w http.ResponseWriter, r *http.Request) {
		d, err := time.ParseDuration(r.URL.Query().Get("for"))
		if err != nil || d < 0 || d > longest {
			http.Error(w, "for: a duration of at most "+longest.String(), http.StatusBadRequest)
			return
		}
		t := time.NewTimer(d)
		defer t.Stop()
		select {
		case <-t.C:
			s.answer(w, r, client)
		case <-r.Context().Done():
		}
	})
	srv := &http.Server{
		ReadHeaderTimeout: 10 * time.Second,
		Protocols:         new(http.Protocols),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.ProtoMajor == 2 && strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
				rpc.ServeHTTP(w, r)
				return
			}
			mux.ServeHTTP(w, r)
		}),
	}
	srv.Protocols.SetHTTP1(true)
	srv.Protocols.SetUnencryptedHTTP2(true)

	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(l) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		_ = srv.Close()
		if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	}
}

func (s Service) answer(w http.ResponseWriter, r *http.Request, client *http.Client) {
	a := Answer{Service: s, Protocol: r.Proto}
	if s.Calls != "" {
		called, err := Call(r.Context(), client, s.Calls)
		if err != nil {
			http.Error(w, fmt.Sprintf("%s in %s called %s: %v", s.Service, s.Zone, s.Calls, err), http.StatusBadGateway)
			return
		}
		a.Called = &called
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(a)
}

// Call asks a sample service who it is.
func Call(ctx context.Context, client *http.Client, url string) (Answer, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return Answer{}, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return Answer{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return Answer{}, err
	}
	if resp.StatusCode != http.StatusOK {
		return Answer{}, fmt.Errorf("%s: %s", resp.Status, strings.TrimSpace(string(body)))
	}
	var a Answer
	if err := json.Unmarshal(body, &a); err != nil {
		return Answer{}, err
	}
	return a, nil
}

// Echo answers every byte on l with itself until the context ends.
func Echo(ctx context.Context, l net.Listener) error {
	var open sync.WaitGroup
	defer open.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	closed := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer closed()
	for {
		c, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		open.Go(func() {
			defer c.Close()
			stop := context.AfterFunc(ctx, func() { _ = c.Close() })
			defer stop()
			_, _ = io.Copy(c, c)
		})
	}
}
