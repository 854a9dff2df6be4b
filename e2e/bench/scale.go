package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/meridian-mesh/meridian/e2e/harness"
	"github.com/meridian-mesh/meridian/e2e/relay"
)

// scale measures one global control plane with many objects and zones: real ones, and scripted ones in a process
// of their own.
type scale struct {
	programs harness.Programs
	dir      string
	rounds   int
	report   *report

	objects, real, scripted int

	global *harness.ControlPlane
	relay  *relay.Relay
	zones  []*harness.ControlPlane
	// weight makes each write differ from the one before.
	weight int
}

func (s *scale) run(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, 20*patience)
	defer cancel()
	defer s.close()
	ports, err := harness.Ports{}.Free()
	if err != nil {
		return err
	}
	if s.global, err = s.programs.Global(filepath.Join(s.dir, "scale"), ports); err != nil {
		return err
	}
	s.global.Env = []string{"MERIDIAN_DIAGNOSTICS_DEBUG_ENDPOINTS=true"}
	if err := s.global.Start(ctx); err != nil {
		return err
	}
	if s.relay, err = relay.Start(s.global.Addr("kds")); err != nil {
		return err
	}
	if err := s.load(ctx); err != nil {
		return fmt.Errorf("writing %d objects: %w", s.objects, err)
	}
	for i := range s.real {
		if err := s.join(ctx, i); err != nil {
			return fmt.Errorf("zone %d: %w", i+1, err)
		}
	}
	z, err := s.startScripted(ctx)
	if err != nil {
		return err
	}
	defer z.close()
	if err := s.spread(ctx, z); err != nil {
		return err
	}
	return s.idle(ctx)
}

func (s *scale) close() {
	var g errgroup.Group
	for _, z := range s.zones {
		g.Go(z.Stop)
	}
	if err := g.Wait(); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	if s.global != nil {
		if err := s.global.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}
	if s.relay != nil {
		s.relay.Close()
	}
}

// load writes the objects: external services and policies of several kinds, each between services of its own.
func (s *scale) load(ctx context.Context) error {
	const conf = `{"sources":[{"match":{"kuma.io/service":"from-%d"}}],"destinations":[{"match":{"kuma.io/service":"to-%d"}}],"conf":%s}`
	kinds := []struct{ path, conf string }{
		{"external-services", ""},
		{"timeouts", `{"connectTimeout":"1s"}`},
		{"retries", `{"tcp":{"maxConnectAttempts":3}}`},
		{"health-checks", `{"interval":"10s","timeout":"2s","unhealthyThreshold":3,"healthyThreshold":1}`},
		{"circuit-breakers", `{"thresholds":{"maxConnections":100}}`},
	}
	var next atomic.Int64
	g, gctx := errgroup.WithContext(ctx)
	begun := time.Now()
	for range clients {
		g.Go(func() error {
			for {
				n := int(next.Add(1)) - 1
				if n >= s.objects {
					return nil
				}
				kind := kinds[n%len(kinds)]
				body := fmt.Sprintf(`{"tags":{"kuma.io/service":"to-%d"},"networking":{"address":"10.0.0.1:%d"}}`, n, 1+n%65_535)
				if kind.conf != "" {
					body = fmt.Sprintf(conf, n, n, kind.conf)
				}
				if _, err := s.global.Client().Put(gctx, fmt.Sprintf("/meshes/default/%s/object-%d", kind.path, n), body); err != nil {
					return err
				}
			}
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	took := time.Since(begun)
	s.report.add(fmt.Sprintf("PUT of %d objects", s.objects), round(took), fmt.Sprintf("%.0f/s, %d clients", float64(s.objects)/took.Seconds(), clients), "")
	return nil
}

func (s *scale) token(ctx context.Context, zone string) (string, error) {
	return s.global.Client().ZoneToken(ctx, zone, time.Hour)
}

// join starts a real zone, and measures how long the first one takes until it has every object. That one joins
// through the relay.
func (s *scale) join(ctx context.Context, i int) error {
	name := fmt.Sprintf("zone-%d", i+1)
	token, err := s.token(ctx, name)
	if err != nil {
		return err
	}
	dir := filepath.Join(s.dir, "scale-"+name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	file := filepath.Join(dir, "token")
	if err := os.WriteFile(file, []byte(token), 0o600); err != nil {
		return err
	}
	ports, err := harness.Ports{}.Free()
	if err != nil {
		return err
	}
	address := s.global.Addr("kds")
	if i == 0 {
		address = s.relay.Addr()
	}
	z, err := s.programs.Zone(filepath.Join(dir, "work"), ports, harness.ZoneOptions{
		Name: name, Address: address, CAFile: s.global.CAFile(), TokenFile: file,
	})
	if err != nil {
		return err
	}
	s.zones = append(s.zones, z)
	begun := time.Now()
	if err := z.Start(ctx); err != nil {
		return err
	}
	if err := s.applied(ctx, name); err != nil {
		return err
	}
	if i == 0 {
		s.report.durations(fmt.Sprintf("start of a new zone → it has all %d objects", s.objects), series{time.Since(begun)}, 5*time.Second)
	}
	return nil
}

// applied waits until a zone has applied the head.
func (s *scale) applied(ctx context.Context, zone string) error {
	return harness.Until(ctx, zone+" has everything", func(ctx context.Context) error {
		p, err := s.global.Client().ZonePosition(ctx, zone)
		if err == nil && p.Applied < p.Head {
			err = fmt.Errorf("position %+v", p)
		}
		return err
	})
}

// put writes an object that every zone gets.
func (s *scale) put(ctx context.Context) (uint64, error) {
	s.weight++
	return s.global.Client().Put(ctx, "/meshes/default/timeouts/object-1", fmt.Sprintf(
		`{"sources":[{"match":{"kuma.io/service":"from-1"}}],"destinations":[{"match":{"kuma.io/service":"to-1"}}],"conf":{"connectTimeout":"%dms"}}`, 1000+s.weight))
}

// spread measures how long a write takes to the last zone.
func (s *scale) spread(ctx context.Context, z *scripted) error {
	begun := time.Now()
	rev, err := s.put(ctx)
	if err != nil {
		return err
	}
	a, err := z.await(ctx, rev)
	if err != nil {
		return err
	}
	s.report.durations(fmt.Sprintf("%d scripted zones join at once → each has all %d objects", s.scripted, s.objects), series{time.Unix(0, a.Last).Sub(begun)}, 0)
	// All of them are there now, so after one more write they have seen the same.
	if rev, err = s.put(ctx); err != nil {
		return err
	}
	if a, err = z.await(ctx, rev); err != nil {
		return err
	}
	if len(a.Digests) != 1 || int(a.Changes[0]) < s.objects {
		return fmt.Errorf("the zones do not agree on what they have: %d digests over %v changes", len(a.Digests), a.Changes)
	}
	var answered, last series
	for range s.rounds {
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return err
		}
		begun := time.Now()
		rev, err := s.put(ctx)
		if err != nil {
			return err
		}
		committed := time.Now() // a little after it
		if a, err = z.await(ctx, rev); err != nil {
			return err
		}
		at := time.Unix(0, a.Last)
		answered = append(answered, max(0, at.Sub(committed)))
		last = append(last, at.Sub(begun))
	}
	what := fmt.Sprintf("last of %d zones, and %d real ones besides", s.scripted, s.real)
	s.report.durations("PUT → "+what, last, 0)
	s.report.durations("answer to the PUT → "+what, answered, 50*time.Millisecond)
	return nil
}

// idle measures what the global control plane costs while nothing happens but heartbeats.
func (s *scale) idle(ctx context.Context) error {
	for i := range s.real {
		if err := s.applied(ctx, fmt.Sprintf("zone-%d", i+1)); err != nil {
			return err
		}
	}
	// Counters of the last writes go by, and what the snapshots took is given back to the system.
	if err := pause(ctx, 6*idleTime); err != nil {
		return err
	}
	heap, err := memory(ctx, s.global)
	if err != nil {
		return err
	}
	s.report.add(fmt.Sprintf("heap and stack of the global, %d objects, %d zones", s.objects, s.real+s.scripted), fmt.Sprintf("%.0f MB", heap/1e6), "", "")
	cpu, err := cpuTime(s.global.Process().Pid())
	if err != nil {
		return err
	}
	begun := time.Now()
	if err := pause(ctx, 2*idleTime); err != nil {
		return err
	}
	now, err := cpuTime(s.global.Process().Pid())
	if err != nil {
		return err
	}
	share := 100 * (now - cpu).Seconds() / time.Since(begun).Seconds()
	s.report.add(fmt.Sprintf("idle CPU of the global, %d zones", s.real+s.scripted), fmt.Sprintf("%.2f %%", share), "of one core", fmt.Sprintf("1 %% (%.2f)", share))
	if s.real == 0 {
		return nil
	}
	return reconnect(ctx, s.report, s.global, s.relay, fmt.Sprintf("reconnect with nothing changed, %d objects", s.objects))
}

// scripted is the process of scripted zones.
type scripted struct {
	cmd   *exec.Cmd
	stdin io.Closer
	addr  string
}

func (s *scale) startScripted(ctx context.Context) (*scripted, error) {
	input := scriptedInput{Address: s.global.Addr("kds"), Tokens: map[string]string{}}
	var err error
	if input.CA, err = os.ReadFile(s.global.CAFile()); err != nil {
		return nil, err
	}
	for i := range s.scripted {
		name := fmt.Sprintf("scripted-%d", i+1)
		if input.Tokens[name], err = s.token(ctx, name); err != nil {
			return nil, err
		}
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self, scriptedArg)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	z := &scripted{cmd: cmd, stdin: in}
	if err := json.NewEncoder(in).Encode(input); err != nil {
		z.close()
		return nil, err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	var ready harness.Ready
	if err == nil {
		err = json.Unmarshal([]byte(line), &ready)
	}
	if err != nil {
		z.close()
		return nil, fmt.Errorf("scripted zones: %w", err)
	}
	z.addr = ready.Addresses["http"]
	return z, nil
}

func (z *scripted) close() {
	_ = z.stdin.Close()
	_ = z.cmd.Wait()
}

// await waits until every scripted zone has a revision.
func (z *scripted) await(ctx context.Context, rev uint64) (*scriptedAnswer, error) {
	u := url.URL{Scheme: "http", Host: z.addr, Path: "/await", RawQuery: "revision=" + strconv.FormatUint(rev, 10)}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("scripted zones: %s", strings.TrimSpace(string(raw)))
	}
	a := &scriptedAnswer{}
	return a, json.Unmarshal(raw, a)
}
