package harness

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Ports of a control plane. Those that it does not have are left alone; 0 is any free port.
type Ports struct{ HTTP, HTTPS, KDS, DPServer, Diagnostics, DNS, MADS int }

// Base is the default ports, moved up by offset.
func Base(offset int) Ports {
	return Ports{
		HTTP: 5681 + offset, HTTPS: 5682 + offset, KDS: 5685 + offset, DPServer: 5678 + offset,
		Diagnostics: 5680 + offset, DNS: 5653 + offset, MADS: 5676 + offset,
	}
}

// Free replaces the ports that are taken, or 0, by free ones.
func (p Ports) Free() (Ports, error) {
	for _, port := range []*int{&p.HTTP, &p.HTTPS, &p.KDS, &p.DPServer, &p.Diagnostics, &p.DNS, &p.MADS} {
		free, err := FreePort(*port)
		if err != nil {
			return Ports{}, err
		}
		*port = free
	}
	return p, nil
}

// GlobalFile is the configuration file of a global control plane.
func GlobalFile(workDir string, p Ports) string {
	return fmt.Sprintf(`general: {workDir: %q}
apiServer: {http: {port: %d}, https: {interface: 127.0.0.1, port: %d}}
multizone: {global: {kds: {interface: 127.0.0.1, grpcPort: %d}}}
diagnostics: {serverPort: %d}
`, workDir, p.HTTP, p.HTTPS, p.KDS, p.Diagnostics)
}

// ZoneOptions say how a zone finds its global control plane. Without an Address it is standalone.
type ZoneOptions struct {
	Name string
	// Address of the global, host:port.
	Address string
	// CAFile is the global's certificate authority.
	CAFile    string
	TokenFile string
	// More lines of its configuration.
	More string
}

// ZoneFile is the configuration file of a zone control plane.
func ZoneFile(workDir string, p Ports, o ZoneOptions) string {
	s := fmt.Sprintf(`general: {workDir: %q}
apiServer: {http: {port: %d}, https: {interface: 127.0.0.1, port: %d}}
dpServer: {interface: 127.0.0.1, port: %d}
diagnostics: {serverPort: %d}
dnsServer: {port: %d}
monitoringAssignmentServer: {grpcPort: %d}
`, workDir, p.HTTP, p.HTTPS, p.DPServer, p.Diagnostics, p.DNS, p.MADS)
	if o.Address != "" {
		s += fmt.Sprintf("multizone: {zone: {name: %q, globalAddress: %q, kds: {rootCaFile: %q, tokenFile: %q}}}\n",
			o.Name, "grpcs://"+o.Address, o.CAFile, o.TokenFile)
	}
	return s + o.More
}

// ControlPlane is a global or zone control plane as a process, which can be started again with the same
// configuration. It is used by one goroutine at a time.
type ControlPlane struct {
	Name string
	// Dir is the work directory.
	Dir string
	// Log gets its log; nil: none.
	Log io.Writer
	// Before are put before the command: a tracer.
	Before []string
	// Env is added to its environment, Args to its arguments.
	Env, Args []string

	path, file string
	proc       *Process
	ready      Ready
	client     *Client
}

// Global prepares a global control plane in dir.
func (p Programs) Global(dir string, ports Ports) (*ControlPlane, error) {
	return p.controlPlane("global", "global-cp", dir, GlobalFile(dir, ports))
}

// Zone prepares a zone control plane in dir.
func (p Programs) Zone(dir string, ports Ports, o ZoneOptions) (*ControlPlane, error) {
	name := o.Name
	if name == "" {
		name = "standalone"
	}
	return p.controlPlane(name, "zone-cp", dir, ZoneFile(dir, ports, o))
}

func (p Programs) controlPlane(name, program, dir, config string) (*ControlPlane, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "config.yaml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return nil, err
	}
	return &ControlPlane{Name: name, Dir: dir, path: p.Path(program), file: file}, nil
}

// Start starts the control plane and waits until it serves.
func (c *ControlPlane) Start(ctx context.Context) error {
	command := append(append([]string{}, c.Before...), c.path, "run", "--config-file", c.file)
	command = append(command, c.Args...)
	proc, err := Start(Spec{Name: c.Name, Path: command[0], Args: command[1:], Dir: c.Dir, Log: c.Log, Env: c.Env})
	if err != nil {
		return err
	}
	ready, err := proc.Ready(ctx)
	if err != nil {
		if proc.Running() {
			proc.Kill()
		}
		return err
	}
	c.proc, c.ready = proc, ready
	if c.client != nil {
		c.client.Close()
	}
	c.client = NewClient(ready.Addresses["http"])
	return nil
}

// Addr is the address of a listener by the ready line's name: "http", "kds", "dpServer", …
func (c *ControlPlane) Addr(name string) string { return c.ready.Addresses[name] }

// Client speaks with its plain API.
func (c *ControlPlane) Client() *Client { return c.client }

// Process is the running program; nil before the first start.
func (c *ControlPlane) Process() *Process { return c.proc }

// Running says whether it was started and has not ended.
func (c *ControlPlane) Running() bool { return c.proc != nil && c.proc.Running() }

// Stop stops it with SIGTERM; it has 5 s.
func (c *ControlPlane) Stop() error {
	if !c.Running() {
		return nil
	}
	return c.proc.Stop(5 * time.Second)
}

// Kill ends it with SIGKILL.
func (c *ControlPlane) Kill() {
	if c.Running() {
		c.proc.Kill()
	}
}

// CAFile is its certificate authority, there once it has started.
func (c *ControlPlane) CAFile() string { return filepath.Join(c.Dir, "ca.crt") }

// ProxyOptions say how a proxy is started.
type ProxyOptions struct {
	// Name and Mesh, for a dataplane that was registered; or Dataplane, its JSON or YAML.
	Name, Mesh, Dataplane string
	// Zone's dpServer, host:port, or its API, http://host:port; and its certificate authority.
	Address, CAFile string
	Token           string
	Envoy           string
	Log             io.Writer
	// Drain is how long Envoy drains at the end.
	Drain time.Duration
}

// Proxy starts zone-dp, which starts Envoy. dir is for its files.
func (p Programs) Proxy(dir string, o ProxyOptions) (*Process, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if !strings.Contains(o.Address, "://") {
		o.Address = "https://" + o.Address
	}
	args := []string{"run", "--cp-address", o.Address, "--binary-path", o.Envoy, "--config-dir", dir}
	if o.CAFile != "" {
		args = append(args, "--ca-cert-file", o.CAFile)
	}
	if o.Token != "" {
		file := filepath.Join(dir, "token")
		if err := os.WriteFile(file, []byte(o.Token), 0o600); err != nil {
			return nil, err
		}
		args = append(args, "--dataplane-token-file", file)
	}
	name := o.Name
	if o.Dataplane != "" {
		file := filepath.Join(dir, "dataplane.yaml")
		if err := os.WriteFile(file, []byte(o.Dataplane), 0o600); err != nil {
			return nil, err
		}
		args = append(args, "--dataplane-file", file)
		name = filepath.Base(dir)
	} else {
		args = append(args, "--name", o.Name, "--mesh", o.Mesh)
	}
	return Start(Spec{
		Name: "zone-dp " + name, Path: p.Path("zone-dp"), Args: args, Dir: dir, Log: o.Log,
		Env: []string{fmt.Sprintf("KUMA_DATAPLANE_DRAIN_TIME=%s", o.Drain)},
	})
}
