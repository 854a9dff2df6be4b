package gateway_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

// pipes is a listener whose connections are pipes inside the process.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
}

func (l *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *pipes) Close() error   { close(l.done); return nil }
func (l *pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)} }

// TestSlowBodiesEnd: who sends headers and then no body does not hold a connection for ever, wanted or not.
func TestSlowBodiesEnd(t *testing.T) {
	p := start(t, setup{})
	for request, status := range map[string]int{
		"PUT /meshes/default HTTP/1.1": 408,
		"POST /tokens HTTP/1.1":        408,
		"GET /meshes HTTP/1.1":         200,
		"PUT /nowhere HTTP/1.1":        404,
	} {
		synctest.Test(t, func(t *testing.T) {
			l := &pipes{make(chan net.Conn), make(chan struct{})}
			srv := &http.Server{Handler: p.handler, ReadHeaderTimeout: time.Minute}
			go func() { _ = srv.Serve(l) }()
			client, server := net.Pipe()
			l.conns <- server
			began := time.Now()
			if _, err := io.WriteString(client, request+"\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{"); err != nil {
				t.Fatal(err)
			}
			r := bufio.NewReader(client)
			resp, err := http.ReadResponse(r, nil)
			if err != nil {
				t.Fatal(request, err)
			}
			if _, err := io.Copy(io.Discard, resp.Body); err != nil {
				t.Error(request, err)
			}
			if resp.StatusCode != status {
				t.Errorf("%s: %d", request, resp.StatusCode)
			}
			if _, err := r.ReadByte(); err == nil || time.Since(began) > time.Minute {
				t.Errorf("%s: the connection ended with %v after %s", request, err, time.Since(began))
			}
			_ = client.Close()
			_ = srv.Close()
			synctest.Wait()
		})
	}
}
