package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/meridian-mesh/meridian/e2e/harness"
)

// controlPort is where the demo listens if it is free.
const controlPort = 5690

// control stops and starts control planes over HTTP, on loopback only.
type control struct {
	listener net.Listener
	server   *http.Server
	ended    chan error
}

func startControl(m *mesh) (*control, error) {
	port, err := harness.FreePort(controlPort)
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return nil, err
	}
	act := func(do func(r *http.Request, u *unit) error, done string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			u, ok := m.unit(r.PathValue("name"))
			if !ok {
				http.Error(w, "there is: global, zone-1, zone-2", http.StatusNotFound)
				return
			}
			begun := time.Now()
			if err := do(r, u); err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			_ = json.NewEncoder(w).Encode(map[string]string{u.name: done, "took": time.Since(begun).Round(time.Millisecond).String()})
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /{name}/stop", act(func(_ *http.Request, u *unit) error { return u.halt() }, "stopped"))
	mux.HandleFunc("POST /{name}/start", act(func(r *http.Request, u *unit) error { return m.launch(r.Context(), u) }, "started"))
	c := &control{listener: l, server: &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}, ended: make(chan error, 1)}
	go func() { c.ended <- c.server.Serve(l) }()
	return c, nil
}

func (c *control) addr() string { return c.listener.Addr().String() }

func (c *control) close() {
	_ = c.server.Close()
	if err := <-c.ended; err != nil && !errors.Is(err, http.ErrServerClosed) {
		fmt.Println("control address:", err)
	}
}
