package zonedp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// bootstrapFile is Envoy's configuration in the configuration directory. It can hold a token.
const bootstrapFile = "bootstrap.yaml"

// Proxy is one data plane proxy: Envoy, and what looks after it.
type Proxy struct {
	settings settings
	envoy    string // path
	log      *slog.Logger
	out      io.Writer

	ready chan struct{}
	addrs map[string]string // written before ready is closed
}

// New checks the options and reads the files that they name. Envoy's output goes to out. Errors name the flag.
func New(o Options, log *slog.Logger, out io.Writer) (*Proxy, error) {
	s, err := o.check()
	if err != nil {
		return nil, err
	}
	path, err := findEnvoy(o.BinaryPath)
	if err != nil {
		return nil, err
	}
	return &Proxy{settings: s, envoy: path, log: log, out: out, ready: make(chan struct{})}, nil
}

// Ready is closed when Envoy serves.
func (p *Proxy) Ready() <-chan struct{} { return p.ready }

// Addrs gives the addresses of Envoy's admin ("admin") and of its inbound listeners (by their names, which begin
// with "inbound:"). It must not be called before Ready is closed.
func (p *Proxy) Addrs() map[string]string { return p.addrs }

// Run fetches the bootstrap, runs Envoy, and returns when Envoy has ended: of its own (a *EnvoyExitError, or nil for
// status 0), or because ctx did, after goodbye and drain. It can be called once.
func (p *Proxy) Run(ctx context.Context) error {
	s := &p.settings
	var port uint16
	if s.adminMax > 0 {
		taken, release, err := takePort(s.adminMin, s.adminMax)
		if err != nil {
			return err
		}
		defer release()
		port = taken
	}
	cp := newClient(s)
	defer cp.close()
	file, remove, err := p.bootstrap(ctx, cp, port)
	if err != nil {
		if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
			return nil
		}
		return err
	}
	defer remove()
	s.warn(p.log)
	e, err := startEnvoy(p.envoy, file.path, p.out)
	if err != nil {
		return err
	}
	var a *admin
	if file.admin != "" {
		a = newAdmin(file.admin)
		defer a.close()
	}
	serves := p.awaitReady(ctx, e, a)
	if serves {
		if a != nil && s.ConfigDir == "" {
			// Envoy has read it. Whatever end we come to, no token stays behind.
			remove()
		}
		close(p.ready)
		select {
		case <-ctx.Done():
		case <-e.ended:
		}
	}
	return p.leave(ctx, cp, e, a, serves)
}

// bootstrapOnDisk is a written bootstrap.
type bootstrapOnDisk struct{ path, admin string }

// bootstrap fetches the bootstrap and writes it where only its owner reads it.
func (p *Proxy) bootstrap(ctx context.Context, cp *client, adminPort uint16) (_ bootstrapOnDisk, remove func(), err error) {
	v, err := askVersion(ctx, p.envoy)
	if err != nil {
		return bootstrapOnDisk{}, nil, err
	}
	data, err := cp.fetch(ctx, &p.settings, adminPort, v, p.log)
	if err != nil {
		return bootstrapOnDisk{}, nil, err
	}
	admin, err := adminAddress(data)
	if err != nil {
		return bootstrapOnDisk{}, nil, err
	}
	dir := p.settings.ConfigDir
	if dir == "" {
		if dir, err = os.MkdirTemp("", "zone-dp-"); err != nil {
			return bootstrapOnDisk{}, nil, err
		}
		remove = func() { _ = os.RemoveAll(dir) }
	} else {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return bootstrapOnDisk{}, nil, fmt.Errorf("--config-dir: %w", err)
		}
		remove = func() { _ = os.Remove(filepath.Join(dir, bootstrapFile)) }
	}
	path := filepath.Join(dir, bootstrapFile)
	// One that was left there may be readable by others.
	_ = os.Remove(path)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		remove()
		return bootstrapOnDisk{}, nil, fmt.Errorf("--config-dir: %w", err)
	}
	return bootstrapOnDisk{path, admin}, remove, nil
}

// awaitReady tells whether Envoy serves, and notes its addresses. False means that it has ended or is to end.
func (p *Proxy) awaitReady(ctx context.Context, e *envoy, a *admin) bool {
	p.addrs = map[string]string{}
	if a == nil {
		return true
	}
	if a.awaitReady(ctx, e) != nil {
		return false
	}
	inbounds, err := a.inbounds(ctx)
	if err != nil {
		p.log.Warn("the inbounds are not known", "error", err)
	} else {
		p.addrs = inbounds
	}
	p.addrs["admin"] = a.address
	return true
}

// leave says goodbye, lets a serving Envoy drain if it was told to stop, ends it, and gives how it ended.
func (p *Proxy) leave(ctx context.Context, cp *client, e *envoy, a *admin, serves bool) error {
	// What ended the run must not end what comes now.
	later := context.WithoutCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		if err := cp.goodbye(later, &p.settings); err != nil {
			p.log.Warn("the control plane was not told that the proxy goes", "error", err)
		}
	})
	select {
	case <-e.ended:
		if ctx.Err() != nil || e.status == 0 {
			p.log.Info("envoy has ended", "status", e.status)
			return nil
		}
		return &EnvoyExitError{e.status}
	default:
	}
	if serves && a != nil && p.settings.DrainTime > 0 {
		p.drain(later, e, a)
	}
	e.stop()
	return nil
}

func (p *Proxy) drain(ctx context.Context, e *envoy, a *admin) {
	p.log.Info("draining", "for", p.settings.DrainTime)
	timer := time.NewTimer(p.settings.DrainTime)
	defer timer.Stop()
	if err := a.drain(ctx); err != nil {
		p.log.Warn("envoy does not drain", "error", err)
		return
	}
	select {
	case <-timer.C:
	case <-e.ended:
	}
}
