package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	kdsv1 "github.com/meridian-mesh/meridian/proto/meridian/kds/v1"
)

// scriptedArg makes this program one of scripted zones, in a process of their own so that what they cost is not
// taken for what the global control plane costs.
const scriptedArg = "scripted-zones"

// scriptedInput says whom to join and as whom; it comes on stdin.
type scriptedInput struct {
	Address string            `json:"address"`
	CA      []byte            `json:"ca"`
	Tokens  map[string]string `json:"tokens"` // by zone
}

// scriptedAnswer is what /await answers.
type scriptedAnswer struct {
	// Last is when the last zone had the revision, in nanoseconds since 1970.
	Last int64 `json:"last,string"`
	// Changes that each zone has taken in, and Digests over them; one entry where all zones agree.
	Changes []uint64 `json:"changes"`
	Digests []uint64 `json:"digests"`
}

// runScripted runs zones that acknowledge what they get and keep a digest of it, until stdin ends.
func runScripted(ctx context.Context, in io.Reader, out io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	dec := json.NewDecoder(in)
	var input scriptedInput
	if err := dec.Decode(&input); err != nil {
		return fmt.Errorf("stdin: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(input.CA) {
		return errors.New("stdin: no certificate")
	}
	b := &board{changed: make(chan struct{})}
	g, ctx := errgroup.WithContext(ctx)
	for name, token := range input.Tokens {
		z := &scriptedZone{name: name, token: token, board: b}
		b.zones = append(b.zones, z)
		g.Go(func() error { return z.run(ctx, input.Address, roots) })
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: b, ReadHeaderTimeout: time.Minute}
	g.Go(func() error {
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	g.Go(func() error {
		<-ctx.Done()
		return srv.Close()
	})
	fmt.Fprintf(out, "{\"ready\":true,\"addresses\":{\"http\":%q}}\n", l.Addr())
	go func() { // ends with stdin, at the latest with the process
		_, _ = io.Copy(io.Discard, in)
		cancel()
	}()
	if err := g.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// board knows how far the zones have come.
type board struct {
	zones []*scriptedZone

	mu sync.Mutex
	// changed is closed, and made anew, with each group of any zone. Guarded by mu.
	changed chan struct{}
}

// arrival is when a zone had a revision.
type arrival struct {
	to uint64
	at time.Time
}

// scriptedZone is one zone; what is below board is guarded by its lock.
type scriptedZone struct {
	name, token string
	board       *board

	arrivals []arrival
	changes  uint64
	digest   uint64
	err      error
}

// remembered is how many groups' times a zone keeps.
const remembered = 64

// ServeHTTP answers when every zone has a revision.
func (b *board) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	rev, err := strconv.ParseUint(r.URL.Query().Get("revision"), 10, 64)
	if err != nil {
		http.Error(w, "revision: "+err.Error(), http.StatusBadRequest)
		return
	}
	for {
		b.mu.Lock()
		answer, err := b.reached(rev)
		changed := b.changed
		b.mu.Unlock()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		if answer != nil {
			_ = json.NewEncoder(w).Encode(answer)
			return
		}
		select {
		case <-changed:
		case <-r.Context().Done():
			return
		}
	}
}

func (b *board) reached(rev uint64) (*scriptedAnswer, error) {
	a := &scriptedAnswer{}
	var last time.Time
	for _, z := range b.zones {
		if z.err != nil {
			return nil, fmt.Errorf("%s: %w", z.name, z.err)
		}
		i := slices.IndexFunc(z.arrivals, func(x arrival) bool { return x.to >= rev })
		if i < 0 {
			return nil, nil
		}
		if z.arrivals[i].at.After(last) {
			last = z.arrivals[i].at
		}
		if !slices.Contains(a.Changes, z.changes) {
			a.Changes = append(a.Changes, z.changes)
		}
		if !slices.Contains(a.Digests, z.digest) {
			a.Digests = append(a.Digests, z.digest)
		}
	}
	a.Last = last.UnixNano()
	return a, nil
}

// run is one session; it does not come back from its end.
func (z *scriptedZone) run(ctx context.Context, address string, roots *x509.CertPool) error {
	conn, err := grpc.NewClient(address,
		grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12})),
		grpc.WithStaticStreamWindowSize(4<<20), grpc.WithStaticConnWindowSize(4<<20)) // as the zones
	if err != nil {
		return err
	}
	defer conn.Close()
	err = z.session(metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+z.token), conn)
	if ctx.Err() != nil {
		return nil
	}
	z.board.mu.Lock()
	defer z.board.mu.Unlock()
	z.err = err
	fmt.Fprintf(os.Stderr, "%s: %v\n", z.name, err)
	return nil
}

func (z *scriptedZone) session(ctx context.Context, conn *grpc.ClientConn) error {
	stream, err := kdsv1.NewSyncServiceClient(conn).Sync(ctx)
	if err != nil {
		return err
	}
	if err := stream.Send(&kdsv1.Frame{Kind: &kdsv1.Frame_Hello{Hello: &kdsv1.Hello{Store: z.name, Zone: z.name, Version: &kdsv1.Version{Version: "scripted"}}}}); err != nil {
		return err
	}
	frames := make(chan *kdsv1.Frame, 16)
	ended := make(chan error, 1)
	go func() { // ends with the stream, which ends with ctx
		for {
			f, err := stream.Recv()
			if err != nil {
				ended <- err
				return
			}
			select {
			case frames <- f:
			case <-ctx.Done():
				return
			}
		}
	}()
	sent := time.Now()
	beat := time.NewTimer(2 * time.Second)
	defer beat.Stop()
	var owed uint64
	rest := map[kdsv1.Log][]byte{}
	for {
		var answers []*kdsv1.Frame
		select {
		case err := <-ended:
			return err
		case <-beat.C:
			answers = append(answers, &kdsv1.Frame{Kind: &kdsv1.Frame_Heartbeat{Heartbeat: &kdsv1.Heartbeat{}}})
		case f := <-frames:
			if f.GetHeartbeat() != nil && time.Since(sent) > 3*time.Second/2 {
				answers = append(answers, &kdsv1.Frame{Kind: &kdsv1.Frame_Heartbeat{Heartbeat: &kdsv1.Heartbeat{}}})
				break
			}
			g := f.GetGroup()
			if g == nil {
				continue
			}
			if rest[g.GetLog()], err = z.take(append(rest[g.GetLog()], g.GetChanges()...)); err != nil {
				return err
			}
			owed += uint64(len(g.GetChanges())) + 64 // what a frame takes of the window
			if g.GetLast() {
				if g.GetLog() == kdsv1.Log_LOG_CONFIG {
					z.arrived(g.GetTo())
				}
				answers = append(answers, &kdsv1.Frame{Kind: &kdsv1.Frame_Ack{Ack: &kdsv1.Ack{Log: g.GetLog(), To: g.GetTo()}}})
			}
			if owed >= 256<<10 {
				answers = append(answers, &kdsv1.Frame{Kind: &kdsv1.Frame_Credit{Credit: &kdsv1.Credit{Bytes: owed}}})
				owed = 0
			}
		}
		for _, a := range answers {
			if err := stream.Send(a); err != nil {
				return err
			}
			sent = time.Now()
			beat.Reset(2 * time.Second)
		}
	}
}

// take adds the whole changes of a piece to the digest, and gives what is left.
func (z *scriptedZone) take(piece []byte) ([]byte, error) {
	for {
		size, n := binary.Uvarint(piece)
		if n <= 0 || uint64(len(piece)-n) < size {
			return slices.Clone(piece), nil
		}
		c := &kdsv1.Change{}
		if err := proto.Unmarshal(piece[n:n+int(size)], c); err != nil {
			return nil, err
		}
		h := fnv.New64a()
		_, _ = h.Write(piece[n : n+int(size)])
		z.board.mu.Lock()
		z.changes++
		z.digest ^= h.Sum64() // any order gives the same
		z.board.mu.Unlock()
		piece = piece[n+int(size):]
	}
}

func (z *scriptedZone) arrived(to uint64) {
	b := z.board
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(z.arrivals) == remembered {
		z.arrivals = z.arrivals[1:]
	}
	z.arrivals = append(z.arrivals, arrival{to, time.Now()})
	close(b.changed)
	b.changed = make(chan struct{})
}
