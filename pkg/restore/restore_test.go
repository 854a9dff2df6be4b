package restore_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/meridian-mesh/meridian/pkg/api"
	"github.com/meridian-mesh/meridian/pkg/auth"
	"github.com/meridian-mesh/meridian/pkg/backup"
	"github.com/meridian-mesh/meridian/pkg/gateway"
	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/restore"
	"github.com/meridian-mesh/meridian/pkg/store"
	"github.com/meridian-mesh/meridian/pkg/store/memory"
	"github.com/meridian-mesh/meridian/pkg/store/sqlite"
	apiv1 "github.com/meridian-mesh/meridian/proto/meridian/api/v1"
)

// plane is a store with an API over it.
type plane struct {
	store   store.Store
	client  apiv1.BackupServiceClient
	keyFile string
	options sqlite.Options
}

func start(t *testing.T) *plane {
	t.Helper()
	dir := t.TempDir()
	p := &plane{keyFile: filepath.Join(dir, "store.key")}
	key := bytes.Repeat([]byte{7}, store.KeySize)
	if err := os.WriteFile(p.keyFile, []byte(base64.StdEncoding.EncodeToString(key)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p.options = sqlite.Options{Path: filepath.Join(dir, "global-cp.db"), Sealer: sealer(t, 7), Sealed: isSecret}
	s, err := sqlite.Open(t.Context(), p.options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	p.store = s
	p.client = client(t, s, p.options.Sealer)
	return p
}

func isSecret(k resource.Kind) bool {
	d, ok := resource.NewTable().ByKind(k)
	return ok && d.Sealed
}

func sealer(t *testing.T, b byte) store.Sealer {
	t.Helper()
	s, err := store.NewAESSealer(bytes.Repeat([]byte{b}, store.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// client calls the API of a store inside the process.
func client(t *testing.T, s store.Store, sealer store.Sealer) apiv1.BackupServiceClient {
	t.Helper()
	svc, err := api.New(api.Options{
		Store: s, Table: resource.NewTable(), Mode: api.Global, Logger: slog.New(slog.DiscardHandler), Version: "1.2.3",
		Policy: auth.AdminPolicy{AllowFromLocalhost: true}, Sealer: sealer,
	})
	if err != nil {
		t.Fatal(err)
	}
	conn := gateway.NewConn()
	svc.Register(conn)
	return apiv1.NewBackupServiceClient(conn)
}

func as(ctx context.Context, address string) context.Context {
	return auth.WithCaller(ctx, auth.Caller{Remote: netip.AddrPortFrom(netip.MustParseAddr(address), 1), Host: "localhost"})
}

func admin(t *testing.T) context.Context {
	t.Helper()
	return as(t.Context(), "127.0.0.1")
}

func (p *plane) apply(t *testing.T, b store.Batch) {
	t.Helper()
	if _, err := p.store.Config().Apply(t.Context(), b); err != nil {
		t.Fatal(err)
	}
}

func put(kind resource.Kind, name string, origin resource.Origin, spec string) store.Batch {
	return store.Batch{Puts: []store.Put{{Key: resource.Key{Kind: kind, Scope: "default", Name: name}, Origin: origin, Spec: []byte(spec)}}}
}

// backup takes one into a file.
func (p *plane) backup(t *testing.T) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "backup")
	stream, err := p.client.Backup(admin(t), &apiv1.BackupRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var data []byte
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		data = append(data, m.GetChunk()...)
	}
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// content is all that a log holds.
type content struct {
	Revision, Compacted resource.Revision
	Objects             []*resource.Object
	Tombs               []*store.Tombstone
	Cursors             map[string]store.Cursor
}

func contentOf(v store.View) content {
	c := content{Revision: v.Revision(), Compacted: v.History().Compacted(), Cursors: map[string]store.Cursor{}}
	for o := range v.Scan(store.Everything()) {
		c.Objects = append(c.Objects, o)
	}
	for tomb := range v.History().Tombstones() {
		c.Tombs = append(c.Tombs, tomb)
	}
	for peer, cursor := range v.History().Cursors() {
		c.Cursors[peer] = cursor
	}
	return c
}

// TestRestoredIsTheSame: what was backed up comes back, under the same identity, with one more epoch by which those
// who were further find out.
func TestRestoredIsTheSame(t *testing.T) {
	p := start(t)
	many := store.Batch{}
	for i := range 50 {
		many.Puts = append(many.Puts, put("Timeout", fmt.Sprintf("t-%d", i), resource.Local, strings.Repeat("x", i*100)).Puts...)
	}
	p.apply(t, many)
	p.apply(t, put("Secret", "s", resource.Local, "very hidden"))
	p.apply(t, put("Dataplane", "zone-1.web", "zone-1", ""))
	p.apply(t, store.Batch{
		Deletes: []resource.Key{{Kind: "Timeout", Scope: "default", Name: "t-7"}},
		Cursor:  &store.CursorMove{Peer: "zone-1", To: store.Cursor{Store: "z", Epoch: "e", Revision: 12}},
	})
	name := p.backup(t)
	want := contentOf(p.store.Config().View())
	before, at := p.store.Config().View().Epochs(), p.store.Config().View().At()
	p.apply(t, put("Timeout", "later", resource.Local, "lost"))
	further := p.store.Config().View().At()

	data, err := os.ReadFile(name)
	if err != nil || bytes.Contains(data, []byte("very hidden")) {
		t.Errorf("a secret lies open in the backup (%v)", err)
	}
	dir := filepath.Join(t.TempDir(), "work")
	r, err := restore.File(t.Context(), name, dir, p.keyFile)
	if err != nil {
		t.Fatal(err)
	}
	if r.Path != filepath.Join(dir, "global-cp.db") || r.Role != backup.Global || r.Objects != 51 || r.Revision != 4 || r.Store != p.store.ID() {
		t.Errorf("%+v", r)
	}
	o := p.options
	o.Path = r.Path
	s, err := sqlite.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	v := s.Config().View()
	if d := cmp.Diff(want, contentOf(v), cmpopts.IgnoreUnexported(resource.Object{}), cmpopts.EquateEmpty()); d != "" {
		t.Error(d)
	}
	if s.ID() != p.store.ID() {
		t.Error("another identity")
	}
	if e := v.Epochs(); len(e) != len(before)+1 || !cmp.Equal(e[:len(before)], before) || e[len(before)].First != v.Revision()+1 {
		t.Errorf("epochs %v after %v", e, before)
	}
	if w, err := s.Config().Watch(store.Everything(), at); err != nil {
		t.Errorf("who was there at the time of the backup can't go on: %v", err)
	} else {
		_ = w.Close()
	}
	if _, err := s.Config().Watch(store.Everything(), further); !errors.Is(err, store.ErrCompacted) {
		t.Errorf("who was further is not found out: %v", err)
	}
}

// TestBackupUnderWrites: a backup is the state at one revision, and writes go on while it is read.
func TestBackupUnderWrites(t *testing.T) {
	p := start(t)
	// Each batch writes two keys: a backup that is between two revisions has them apart.
	pair := func(n int) store.Batch {
		b := put("Timeout", "a", resource.Local, fmt.Sprint(n))
		b.Puts = append(b.Puts, put("Timeout", "z", resource.Local, fmt.Sprint(n)).Puts...)
		return b
	}
	between := store.Batch{}
	for i := range 100 {
		between.Puts = append(between.Puts, put("Timeout", fmt.Sprintf("m-%d", i), resource.Local, strings.Repeat("f", 5000)).Puts...)
	}
	p.apply(t, between)
	p.apply(t, pair(0))
	stream, err := p.client.Backup(admin(t), &apiv1.BackupRequest{})
	if err != nil {
		t.Fatal(err)
	}
	first, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	// Nobody takes the rest now: the writers must not wait for that.
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for j := range 20 {
				if _, err := p.store.Config().Apply(context.Background(), pair(i*100+j+1)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	data := first.GetChunk()
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if len(m.GetChunk()) > 1<<20 {
			t.Errorf("a piece of %d bytes", len(m.GetChunk()))
		}
		data = append(data, m.GetChunk()...)
	}
	r, err := backup.NewReader(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]string{}
	for {
		rec, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if o := rec.GetObject(); o != nil {
			seen[o.GetName()] = string(o.GetSpec())
		}
	}
	if seen["a"] != "0" || seen["z"] != "0" || len(seen) != 102 {
		t.Errorf("a %q, z %q of %d objects", seen["a"], seen["z"], len(seen))
	}
}

func TestRefusals(t *testing.T) {
	p := start(t)
	p.apply(t, put("Secret", "s", resource.Local, "hidden"))
	name := p.backup(t)
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(t.TempDir(), "other.key")
	if err := os.WriteFile(other, []byte(base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{9}, store.KeySize))), 0o600); err != nil {
		t.Fatal(err)
	}
	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "global-cp.db"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	file := func(data []byte) string {
		name := filepath.Join(t.TempDir(), "backup")
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	flipped := bytes.Clone(data)
	flipped[len(flipped)/2] ^= 1
	for what, c := range map[string]struct {
		name, dir, key, want string
		is                   error
	}{
		"not empty":   {name, full, "", "global-cp.db", nil},
		"another key": {name, "", other, "--key-file", store.ErrKey},
		"no key file": {name, "", filepath.Join(full, "none"), "--key-file", nil},
		"cut off":     {file(data[:len(data)-5]), "", "", "cut off", backup.ErrDamaged},
		"changed":     {file(flipped), "", "", "damaged", backup.ErrDamaged},
		"no backup":   {other, "", "", "not a backup", backup.ErrFormat},
		"no file":     {filepath.Join(full, "none"), "", "", "none", nil},
	} {
		dir := c.dir
		if dir == "" {
			dir = filepath.Join(t.TempDir(), "work")
		}
		_, err := restore.File(t.Context(), c.name, dir, c.key)
		if err == nil || !strings.Contains(err.Error(), c.want) || c.is != nil && !errors.Is(err, c.is) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", what, err)
		}
		if entries, _ := os.ReadDir(dir); c.dir == "" && len(entries) > 0 {
			t.Errorf("%s: it left %v", what, entries)
		}
	}
	// What ends it on the way leaves nothing either.
	dir := filepath.Join(t.TempDir(), "work")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := restore.File(ctx, name, dir, p.keyFile); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) > 0 {
		t.Errorf("left behind: %v", entries)
	}
	// Without the key it is restored, and the store does not open with a new one.
	r, err := restore.File(t.Context(), name, dir, "")
	if err != nil {
		t.Fatal(err)
	}
	_, err = sqlite.Open(t.Context(), sqlite.Options{Path: r.Path, Sealer: sealer(t, 8), Sealed: isSecret})
	if !errors.Is(err, store.ErrKey) {
		t.Errorf("opened with another key: %v", err)
	}
}

func TestWhoMayBackUp(t *testing.T) {
	p := start(t)
	for what, call := range map[string]func(context.Context) error{
		"backup": func(ctx context.Context) error {
			s, err := p.client.Backup(ctx, &apiv1.BackupRequest{})
			if err == nil {
				_, err = s.Recv()
			}
			return err
		},
		"export with secrets": func(ctx context.Context) error {
			p.apply(t, put("Secret", "s", resource.Local, ""))
			s, err := p.client.Export(ctx, &apiv1.ExportRequest{Secrets: "true"})
			if err == nil {
				_, err = s.Recv()
			}
			return err
		},
	} {
		if err := call(as(t.Context(), "192.0.2.7")); err == nil || !strings.Contains(err.Error(), "administrators") {
			t.Errorf("%s over the network: %v", what, err)
		}
		if err := call(admin(t)); err != nil {
			t.Errorf("%s by an administrator: %v", what, err)
		}
	}
	mem := memory.New(memory.Options{})
	defer mem.Close()
	s, err := client(t, mem, nil).Backup(admin(t), &apiv1.BackupRequest{})
	if err == nil {
		_, err = s.Recv()
	}
	if err == nil || !strings.Contains(err.Error(), "store.type is memory") {
		t.Errorf("a backup of nothing: %v", err)
	}
}

// TestGivenUp: a caller that goes ends the call.
func TestGivenUp(t *testing.T) {
	p := start(t)
	many := store.Batch{}
	for i := range 20 {
		many.Puts = append(many.Puts, put("Timeout", fmt.Sprint(i), resource.Local, strings.Repeat("x", 100_000)).Puts...)
	}
	p.apply(t, many)
	ctx, cancel := context.WithCancel(admin(t))
	s, err := p.client.Backup(ctx, &apiv1.BackupRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Recv(); err != nil {
		t.Fatal(err)
	}
	cancel()
	end := time.Now().Add(10 * time.Second)
	for err == nil && time.Now().Before(end) {
		_, err = s.Recv()
	}
	if err == nil || errors.Is(err, io.EOF) {
		t.Errorf("the call goes on: %v", err)
	}
}
