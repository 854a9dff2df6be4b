// Package listen holds what every Meridian server does with ports: take all of them or none, say where they
// are, share one TLS port between gRPC and HTTP, serve until told to stop.
package listen

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
)

// Set is a set of listeners under the names by which the ready line calls them. It is not safe for concurrent
// use until it serves.
type Set struct {
	listeners map[string]net.Listener
	servers   []server
}

type server struct {
	name  string
	serve func(context.Context) error
	// stop ends the server within the context's time, politely at first.
	stop func(context.Context)
}

// New makes an empty set.
func New() *Set { return &Set{listeners: map[string]net.Listener{}} }

// TCP opens a port (0: any free one) under a name. On failure the error names key, the configuration key of
// the port, and every listener of the set is closed: all ports or none.
func (s *Set) TCP(name, key, iface string, port int) (net.Listener, error) {
	l, err := net.Listen("tcp", net.JoinHostPort(iface, strconv.Itoa(port)))
	if err != nil {
		s.Close()
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	s.listeners[name] = l
	return l, nil
}

// Close closes every listener; for a start that fails.
func (s *Set) Close() {
	for _, l := range s.listeners {
		_ = l.Close()
	}
}

// Addr gives the address of one listener, nil if there is none of that name.
func (s *Set) Addr(name string) net.Addr {
	if l, ok := s.listeners[name]; ok {
		return l.Addr()
	}
	return nil
}

// Addrs gives dialable addresses: a wildcard interface is given as loopback.
func (s *Set) Addrs() map[string]string {
	out := make(map[string]string, len(s.listeners))
	for name, l := range s.listeners {
		out[name] = dialable(l.Addr())
	}
	return out
}

func dialable(a net.Addr) string {
	t, ok := a.(*net.TCPAddr)
	if !ok || !t.IP.IsUnspecified() {
		return a.String()
	}
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(t.Port))
}

// HTTP adds an HTTP server on a listener.
func (s *Set) HTTP(name string, l net.Listener, srv *http.Server) {
	s.servers = append(s.servers, server{
		name: name,
		serve: func(context.Context) error {
			if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				return err
			}
			return nil
		},
		stop: func(ctx context.Context) {
			if srv.Shutdown(ctx) != nil {
				_ = srv.Close()
			}
		},
	})
}

// GRPC adds a gRPC server on a listener. Its streams live as long as the process, so it is stopped, not drained;
// first runs before that, to let its services say goodbye.
func (s *Set) GRPC(name string, l net.Listener, srv *grpc.Server, first ...func()) {
	s.servers = append(s.servers, server{
		name: name,
		serve: func(context.Context) error {
			if err := srv.Serve(l); !errors.Is(err, grpc.ErrServerStopped) {
				return err
			}
			return nil
		},
		stop: func(context.Context) {
			for _, f := range first {
				f()
			}
			srv.Stop()
		},
	})
}

// Task adds something that runs until its context ends; that end is no failure.
func (s *Set) Task(name string, run func(context.Context) error) {
	s.servers = append(s.servers, server{
		name: name,
		serve: func(ctx context.Context) error {
			if err := run(ctx); ctx.Err() == nil {
				return err
			}
			return nil
		},
		stop: func(context.Context) {},
	})
}

// Serve runs everything until ctx ends or one of them fails, then stops all at once, within grace, and
// waits for them. It returns the first failure.
func (s *Set) Serve(ctx context.Context, grace time.Duration) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, srv := range s.servers {
		g.Go(func() error {
			if err := srv.serve(ctx); err != nil {
				return fmt.Errorf("%s: %w", srv.name, err)
			}
			return nil
		})
	}
	g.Go(func() error {
		<-ctx.Done()
		stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
		defer cancel()
		var wg sync.WaitGroup
		for _, srv := range s.servers {
			wg.Go(func() { srv.stop(stopCtx) })
		}
		wg.Wait()
		return nil
	})
	return g.Wait()
}
