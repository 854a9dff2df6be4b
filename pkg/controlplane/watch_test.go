package controlplane_test

import (
	"bufio"
	"context"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/meridian-mesh/meridian/pkg/config"
	"github.com/meridian-mesh/meridian/pkg/globalcp"
	apiv1 "github.com/meridian-mesh/meridian/proto/meridian/api/v1"
)

// stream is what a watch over HTTP sends.
type stream struct {
	res   *http.Response
	lines *bufio.Scanner
}

// watch opens one that must be taken, and reads up to "synced". It returns the names of the events.
func watch(t *testing.T, client *http.Client, url, token string) (*stream, []string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = res.Body.Close() })
	if res.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s", url, res.Status)
	}
	s := &stream{res, bufio.NewScanner(res.Body)}
	var names []string
	for len(names) == 0 || names[len(names)-1] != "synced" {
		name, ok := s.value("event: ")
		if !ok {
			t.Fatalf("the stream ends after %v: %v", names, s.lines.Err())
		}
		names = append(names, name)
	}
	return s, names
}

// value reads up to the next line with a prefix; false: there is none.
func (s *stream) value(prefix string) (string, bool) {
	for s.lines.Scan() {
		if v, ok := strings.CutPrefix(s.lines.Text(), prefix); ok {
			return v, true
		}
	}
	return "", false
}

// TestWatchEndsWithItsCredential: both forms of a watch end within a second after the token is taken back, also in the
// zone, and that of another goes on.
func TestWatchEndsWithItsCredential(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	token := w.must("POST", "/tokens/user", `{"name": "ann", "role": "admin"}`)
	other := w.must("POST", "/tokens/user", `{"name": "bob", "role": "writer"}`)
	w.synced()
	ended := map[string]<-chan error{}
	var kept []*stream
	for place, cp := range map[string]string{"global": w.global.Addrs()["https"], "zone": w.zone.Addrs()["https"]} {
		client := &http.Client{Transport: w.transport(true, nil)}
		s, _ := watch(t, client, "https://"+cp+"/secrets?watch=true", token)
		o, _ := watch(t, client, "https://"+cp+"/?watch=true", other)
		kept = append(kept, o)
		over := make(chan error, 1)
		go func() {
			if said, ok := s.value(": "); ok && s.lines.Err() == nil && strings.Contains(said, "revoked") {
				over <- status.Error(codes.Unauthenticated, said)
			} else {
				over <- s.lines.Err()
			}
		}()
		ended[place+", HTTP"] = over

		ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+token)
		rpc, err := apiv1.NewResourceServiceClient(w.dial(cp, true, nil)).Watch(ctx, &apiv1.WatchRequest{Scope: "default"})
		if err == nil {
			_, err = rpc.Recv()
		}
		if err != nil {
			t.Fatal(err)
		}
		overRPC := make(chan error, 1)
		go func() {
			for {
				if _, err := rpc.Recv(); err != nil {
					overRPC <- err
					return
				}
			}
		}()
		ended[place+", gRPC"] = overRPC
	}
	since := time.Now()
	w.must("PUT", "/revocations/"+idOf(t, token), `{}`)
	for name, over := range ended {
		ends(t, name, since, over)
	}
	w.must("PUT", "/zones/zone-9", `{"enabled": true}`)
	for _, s := range kept {
		for {
			name, ok := s.value(`data:  "name": `)
			if !ok {
				t.Fatalf("the stream of another token ended: %v", s.lines.Err())
			}
			if strings.Contains(name, "zone-9") {
				break
			}
		}
	}
}

// TestWatchOutlivesProcess: a client comes back to the next process where it was, and does not when the store is another.
func TestWatchOutlivesProcess(t *testing.T) {
	t.Parallel()
	dir, key := t.TempDir(), filepath.Join(t.TempDir(), "store.key")
	run := func(path string, use func(base string)) {
		g := config.DefaultGlobal()
		g.General.WorkDir = dir
		g.Store = config.Store{Type: config.StoreSQLite, SQLite: config.SQLite{Path: filepath.Join(dir, path)}, EncryptionKeyFile: key}
		g.APIServer.HTTP.Port, g.APIServer.HTTPS.Enabled, g.Diagnostics.ServerPort = 0, false, 0
		g.Multizone.Global.KDS.GRPCPort, g.Multizone.Global.KDS.Interface = 0, "127.0.0.1"
		cp, err := globalcp.New(t.Context(), &g, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- cp.Run(ctx) }()
		<-cp.Ready()
		use("http://" + cp.Addrs()["http"])
		began := time.Now()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		// The watch is still open, and holds up nothing.
		if d := time.Since(began); d > time.Second {
			t.Errorf("the process took %s to end", d)
		}
	}
	put := func(base, path string) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, base+path, strings.NewReader(`{}`))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if res.StatusCode/100 != 2 {
			t.Fatalf("%s: %s", path, res.Status)
		}
	}
	client := &http.Client{Transport: &http.Transport{}}
	var id string
	run("cp.db", func(base string) {
		s, _ := watch(t, client, base+"/?watch=true", "")
		put(base, "/zones/zone-1")
		for range 2 { // that of "synced", and that of the zone
			id, _ = s.value("id: ")
		}
	})
	run("cp.db", func(base string) {
		if _, names := watch(t, client, base+"/?watch=true&after="+id, ""); len(names) != 1 {
			t.Errorf("nothing has happened since, and it gets %v", names)
		}
		put(base, "/zones/zone-2")
		if _, names := watch(t, client, base+"/?watch=true&after="+id, ""); len(names) != 2 || names[0] != "put" {
			t.Errorf("one zone has come since, and it gets %v", names)
		}
	})
	run("other.db", func(base string) {
		if _, names := watch(t, client, base+"/?watch=true&after="+id, ""); names[0] != "reset" || len(names) < 3 {
			t.Errorf("the store is another, and it gets %v", names)
		}
	})
}
