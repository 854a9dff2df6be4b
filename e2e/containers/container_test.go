package containers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"
	"github.com/testcontainers/testcontainers-go"
	"github.com/testcontainers/testcontainers-go/exec"
	"github.com/testcontainers/testcontainers-go/wait"
)

const (
	// startTime is how long a container may take to serve.
	startTime = 30 * time.Second
	// actTime is how long the Docker daemon may take with what it is told.
	actTime = 20 * time.Second
	// logSize bounds what is shown of a container's log, in bytes.
	logSize = 6 << 10
)

// spec says what to start.
type spec struct {
	// name on all its networks.
	name string
	// image of the run, by name and tag.
	image, tag string
	command    []string
	env        map[string]string
	// files by path.
	files map[string]string
	// networks that it is on; or beside, the container whose network it shares.
	networks []string
	beside   *unit
	// ports to reach from this machine.
	ports []string
	// volume for /var/lib/meridian; empty: none.
	volume string
	// ready is a part of the log that says that it serves.
	ready string
}

// unit is a container. One goroutine at a time changes it; any may dial it meanwhile.
type unit struct {
	spec

	mu sync.Mutex
	// c is nil while there is none.
	c testcontainers.Container
}

func (u *unit) container() testcontainers.Container {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.c
}

func (u *unit) set(c testcontainers.Container) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.c = c
}

// start starts a container, and removes it with the test; its log is shown if the test fails.
func start(t *testing.T, s spec) *unit {
	t.Helper()
	u := &unit{spec: s}
	t.Cleanup(func() { u.remove(t) })
	u.create(t)
	return u
}

func (u *unit) create(t *testing.T) {
	t.Helper()
	ctx := within(t, startTime)
	req := testcontainers.ContainerRequest{
		Name: unique(u.name), Image: image(u.image, u.tag), Cmd: u.command, Env: u.env, ExposedPorts: u.ports,
		Labels: labels(), Networks: u.networks, NetworkAliases: map[string][]string{},
		ConfigModifier: func(c *container.Config) {
			if u.beside == nil {
				c.Hostname = u.name
			}
		},
		HostConfigModifier: func(h *container.HostConfig) {
			if u.beside != nil {
				h.NetworkMode = container.NetworkMode("container:" + u.beside.id())
			}
		},
	}
	for _, n := range u.networks {
		req.NetworkAliases[n] = []string{u.name}
	}
	for _, path := range slices.Sorted(maps.Keys(u.files)) {
		req.Files = append(req.Files, testcontainers.ContainerFile{
			Reader: strings.NewReader(u.files[path]), ContainerFilePath: path, FileMode: 0o644,
		})
	}
	if u.volume != "" {
		req.Mounts = testcontainers.Mounts(testcontainers.VolumeMount(u.volume, "/var/lib/meridian"))
	}
	if u.ready != "" {
		req.WaitingFor = wait.ForLog(u.ready).WithStartupTimeout(startTime).WithPollInterval(50 * time.Millisecond)
	}
	c, err := suite.docker.RunContainer(ctx, req)
	if c != nil {
		u.set(c)
	}
	if err != nil {
		t.Fatalf("start %s: %v", u.name, err)
	}
}

// remove shows the log, if the test has failed, and ends the container.
func (u *unit) remove(t *testing.T) {
	t.Helper()
	if u.container() == nil {
		return
	}
	// The test's own context has ended by now.
	ctx, cancel := context.WithTimeout(context.Background(), actTime)
	defer cancel()
	if t.Failed() {
		t.Logf("log of %s:\n%s", u.name, u.log(ctx))
	}
	_, err := suite.docker.Client().ContainerRemove(ctx, u.id(), client.ContainerRemoveOptions{Force: true})
	if err != nil {
		t.Errorf("remove %s: %v", u.name, err)
	}
	u.set(nil)
}

// log is the end of what the container has said.
func (u *unit) log(ctx context.Context) string {
	r, err := u.container().Logs(ctx)
	if err != nil {
		return err.Error()
	}
	defer r.Close()
	raw, err := io.ReadAll(r)
	if err != nil {
		return err.Error()
	}
	return string(raw[max(0, len(raw)-logSize):])
}

// said is what the container has written to stderr since a time, by the daemon's clock, which is this machine's.
func (u *unit) said(t *testing.T, since time.Time) string {
	t.Helper()
	o := client.ContainerLogsOptions{ShowStderr: true}
	if !since.IsZero() {
		o.Since = since.Format(time.RFC3339Nano)
	}
	r, err := suite.docker.Client().ContainerLogs(within(t, actTime), u.id(), o)
	if err != nil {
		t.Fatalf("log of %s: %v", u.name, err)
	}
	defer r.Close()
	raw, err := io.ReadAll(r)
	if err != nil {
		t.Fatalf("log of %s: %v", u.name, err)
	}
	return string(raw)
}

func (u *unit) id() string { return u.container().GetContainerID() }

// act tells the Docker daemon to do something with a container.
func act[O, R any](t *testing.T, u *unit, what string, do func(context.Context, string, O) (R, error)) {
	t.Helper()
	var options O
	if _, err := do(within(t, actTime), u.id(), options); err != nil {
		t.Fatalf("%s %s: %v", what, u.name, err)
	}
}

func (u *unit) kill(t *testing.T) {
	t.Helper()
	act(t, u, "kill", suite.docker.Client().ContainerKill)
}

func (u *unit) pause(t *testing.T) {
	t.Helper()
	act(t, u, "pause", suite.docker.Client().ContainerPause)
}

func (u *unit) unpause(t *testing.T) {
	t.Helper()
	act(t, u, "unpause", suite.docker.Client().ContainerUnpause)
}

// restart starts a container that has ended.
func (u *unit) restart(t *testing.T) {
	t.Helper()
	act(t, u, "start", suite.docker.Client().ContainerStart)
}

// stop ends the container as an orderly update does.
func (u *unit) stop(t *testing.T) {
	t.Helper()
	act(t, u, "stop", suite.docker.Client().ContainerStop)
	state, err := u.container().State(within(t, actTime))
	if err != nil {
		t.Fatal(err)
	}
	if state.ExitCode != 0 {
		t.Errorf("%s ended with %d when it was told to stop", u.name, state.ExitCode)
	}
}

// roll stops the container and puts one of another image in its place.
func (u *unit) roll(t *testing.T, tag string) {
	t.Helper()
	u.stop(t)
	u.remove(t)
	u.tag = tag
	u.create(t)
}

// disconnect takes the container off a network, without a word to anybody.
func (u *unit) disconnect(t *testing.T, net string) {
	t.Helper()
	_, err := suite.docker.Client().NetworkDisconnect(within(t, actTime), net, client.NetworkDisconnectOptions{Container: u.id(), Force: true})
	if err != nil {
		t.Fatalf("disconnect %s: %v", u.name, err)
	}
}

// connect puts it back.
func (u *unit) connect(t *testing.T, net string) {
	t.Helper()
	_, err := suite.docker.Client().NetworkConnect(within(t, actTime), net, client.NetworkConnectOptions{
		Container: u.id(), EndpointConfig: &network.EndpointSettings{Aliases: []string{u.name}},
	})
	if err != nil {
		t.Fatalf("connect %s: %v", u.name, err)
	}
}

// addresses by network.
func (u *unit) addresses(t *testing.T) map[string]string {
	t.Helper()
	i, err := u.container().Inspect(within(t, actTime))
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for name, e := range i.NetworkSettings.Networks {
		if e.IPAddress.IsValid() {
			all[name] = e.IPAddress.String()
		}
	}
	return all
}

// dial opens a connection to a port from this machine. The port is looked up each time: it changes with a restart.
func (u *unit) dial(port string) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, _, _ string) (net.Conn, error) {
		c := u.container()
		if c == nil {
			return nil, fmt.Errorf("%s is away", u.name)
		}
		mapped, err := c.MappedPort(ctx, port)
		if err != nil {
			return nil, err
		}
		host, err := c.Host(ctx)
		if err != nil {
			return nil, err
		}
		return new(net.Dialer).DialContext(ctx, "tcp", net.JoinHostPort(host, mapped.Port()))
	}
}

// run runs a program inside the container and gives what it wrote.
func (u *unit) run(ctx context.Context, args ...string) (string, error) {
	status, r, err := u.container().Exec(ctx, args, exec.Multiplexed())
	if err != nil {
		return "", fmt.Errorf("%s in %s: %w", args[0], u.name, err)
	}
	out, err := io.ReadAll(r)
	if err == nil && status != 0 {
		err = errors.New(strings.TrimSpace(string(out)))
	}
	if err != nil {
		return "", fmt.Errorf("%s in %s: %d: %w", args[0], u.name, status, err)
	}
	return string(out), nil
}

// read gives a file of the container.
func (u *unit) read(t *testing.T, path string) string {
	t.Helper()
	r, err := u.container().CopyFileFromContainer(within(t, actTime), path)
	if err != nil {
		t.Fatalf("%s of %s: %v", path, u.name, err)
	}
	defer r.Close()
	raw, err := io.ReadAll(r)
	if err != nil {
		t.Fatalf("%s of %s: %v", path, u.name, err)
	}
	return string(raw)
}

// newNetwork makes a network that ends with the test.
func newNetwork(t *testing.T, name string) string {
	t.Helper()
	name = unique(name)
	api := suite.docker.Client()
	r, err := api.NetworkCreate(within(t, actTime), name, client.NetworkCreateOptions{Driver: "bridge", Labels: labels()})
	if err != nil {
		t.Fatalf("network %s: %v", name, err)
	}
	atEnd(t, "network "+name, func(ctx context.Context) error {
		_, err := api.NetworkRemove(ctx, r.ID, client.NetworkRemoveOptions{})
		return err
	})
	return name
}

// newVolume makes a volume that ends with the test.
func newVolume(t *testing.T, name string) string {
	t.Helper()
	name = unique(name)
	api := suite.docker.Client()
	if _, err := api.VolumeCreate(within(t, actTime), client.VolumeCreateOptions{Name: name, Labels: labels()}); err != nil {
		t.Fatalf("volume %s: %v", name, err)
	}
	atEnd(t, "volume "+name, func(ctx context.Context) error {
		_, err := api.VolumeRemove(ctx, name, client.VolumeRemoveOptions{Force: true})
		return err
	})
	return name
}

// atEnd removes something after the test.
func atEnd(t *testing.T, what string, remove func(context.Context) error) {
	t.Helper()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), actTime)
		defer cancel()
		if err := remove(ctx); err != nil {
			t.Errorf("remove %s: %v", what, err)
		}
	})
}

// unique makes a name that no other test or run has.
func unique(name string) string { return "meridian-e2e-" + suite.run + "-" + random() + "-" + name }

func labels() map[string]string { return map[string]string{label: suite.run} }

// within is a context that ends after d, with the test, or with the run.
func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(t.Context(), d, fmt.Errorf("not within %s", d))
	watching := context.AfterFunc(suite.interrupted, cancel)
	t.Cleanup(func() {
		watching()
		cancel()
	})
	return ctx
}
