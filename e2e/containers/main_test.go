// Package containers runs the mesh as its users do in production: each program in a container of its own, from the
// images of the folder docker, each zone on a network of its own, state on volumes. What is tried is what only
// containers can show: networks that go away, processes that stand still or are killed, and the roll to a new build.
package containers

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/moby/moby/client"
	"github.com/testcontainers/testcontainers-go"
	"github.com/testcontainers/testcontainers-go/log"

	"github.com/meridian-mesh/meridian/e2e/harness"
)

// label marks whatever a run makes at the Docker daemon; its value is the run, which begins with the process id.
const label = "meridian.e2e.run"

// oldVersion is what the build says it is that is rolled from, where it is not given.
const oldVersion = "0.0.0-before"

// suite is what the tests share: it is set once, before they start.
var suite struct {
	run string
	// interrupted ends when a signal comes, and with it whatever the tests wait for.
	interrupted context.Context
	docker      *testcontainers.DockerProvider
	// missing says why there is no Docker; nil if there is.
	missing error
	// require makes a failure of every skip.
	require bool
	// present and old are the tags of the images of the build that is tested, and of the one before it.
	present, old string
}

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// The first signal ends the tests, which clean up; the second does what signals do.
	context.AfterFunc(ctx, stop)
	suite.interrupted = ctx
	suite.require = os.Getenv("MERIDIAN_E2E_REQUIRE") == "1"
	suite.run = fmt.Sprintf("%d-%s", os.Getpid(), random())
	// Tests clean up by label; the reaper's image would have to be pulled. Ports are published to this machine.
	for k, v := range map[string]string{"TESTCONTAINERS_RYUK_DISABLED": "true", "TESTCONTAINERS_HOST_OVERRIDE": "127.0.0.1"} {
		if os.Getenv(k) == "" {
			_ = os.Setenv(k, v)
		}
	}
	log.SetDefault(log.NewNoopLogger())
	if suite.missing = connect(ctx); suite.missing != nil {
		return m.Run()
	}
	defer func() { _ = suite.docker.Close() }()
	// What a killed run has left behind, and whatever happens to this one.
	sweep(dead)
	defer sweep(func(run string) bool { return run == suite.run })
	if err := buildImages(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

func connect(ctx context.Context) (err error) {
	defer func() {
		// The library panics where it finds no socket at all.
		if r := recover(); r != nil {
			err = fmt.Errorf("docker: %v", r)
		}
	}()
	// Without this a network of the library's would join all containers.
	suite.docker, err = testcontainers.NewDockerProvider(testcontainers.WithDefaultBridgeNetwork(testcontainers.Bridge))
	if err != nil {
		return fmt.Errorf("docker: %w", err)
	}
	limited, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if _, err := suite.docker.Client().Ping(limited, client.PingOptions{}); err != nil {
		return fmt.Errorf("docker: %w", err)
	}
	return nil
}

// random is enough to tell runs apart.
func random() string {
	b := make([]byte, 3)
	_, _ = rand.Read(b)
	return hex.EncodeToString(b)
}

// dead says whether the process of a run has ended.
func dead(run string) bool {
	pid, _, _ := strings.Cut(run, "-")
	n, err := strconv.Atoi(pid)
	return err == nil && syscall.Kill(n, 0) == syscall.ESRCH
}

// sweep removes what the runs made that are asked for.
func sweep(which func(run string) bool) {
	// Also when the run's own context has ended.
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	api := suite.docker.Client()
	labelled := client.Filters{}.Add("label", label)
	if r, err := api.ContainerList(ctx, client.ContainerListOptions{All: true, Filters: labelled}); err == nil {
		for _, c := range r.Items {
			if which(c.Labels[label]) {
				report(api.ContainerRemove(ctx, c.ID, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true}))
			}
		}
	}
	if r, err := api.NetworkList(ctx, client.NetworkListOptions{Filters: labelled}); err == nil {
		for _, n := range r.Items {
			if which(n.Labels[label]) {
				report(api.NetworkRemove(ctx, n.ID, client.NetworkRemoveOptions{}))
			}
		}
	}
	if r, err := api.VolumeList(ctx, client.VolumeListOptions{Filters: labelled}); err == nil {
		for _, v := range r.Items {
			if which(v.Labels[label]) {
				report(api.VolumeRemove(ctx, v.Name, client.VolumeRemoveOptions{Force: true}))
			}
		}
	}
	if r, err := api.ImageList(ctx, client.ImageListOptions{Filters: labelled}); err == nil {
		for _, i := range r.Items {
			if which(i.Labels[label]) {
				report(api.ImageRemove(ctx, i.ID, client.ImageRemoveOptions{Force: true, PruneChildren: true}))
			}
		}
	}
}

// report prints what could not be removed.
func report[T any](_ T, err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "clean up:", err)
	}
}

// image is the name of one of the run's images.
func image(name, tag string) string { return "meridian-e2e/" + name + ":" + tag }

// buildImages builds the images of both builds and of the service. The programs come from $MERIDIAN_E2E_BIN and
// $MERIDIAN_E2E_OLD_BIN; those that are not given are built.
func buildImages(ctx context.Context) error {
	root, err := harness.Root()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "meridian-e2e-images-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	suite.present, suite.old = suite.run+"-present", suite.run+"-old"
	if err := serviceImage(ctx, root, filepath.Join(dir, "service")); err != nil {
		return err
	}
	present, old := os.Getenv("MERIDIAN_E2E_BIN"), os.Getenv("MERIDIAN_E2E_OLD_BIN")
	if present == "" {
		present = filepath.Join(dir, "present")
		if err := compile(ctx, root, present, ""); err != nil {
			return err
		}
	}
	if old == "" {
		old = filepath.Join(dir, "old")
		if err := compile(ctx, released(ctx, root, filepath.Join(dir, "released")), old, oldVersion); err != nil {
			return err
		}
	}
	for tag, bin := range map[string]string{suite.present: present, suite.old: old} {
		contexts, images := filepath.Join(dir, tag), []string{"global-cp", "zone-cp", "zone-dp"}
		args := append([]string{"--context-only", bin, contexts, tag}, images...)
		if err := command(ctx, root, filepath.Join(root, "docker", "build.sh"), args...); err != nil {
			return err
		}
		for _, name := range images {
			if err := build(ctx, filepath.Join(contexts, name), name, tag); err != nil {
				return err
			}
		}
	}
	return nil
}

// serviceImage builds the image of the service behind the proxies.
func serviceImage(ctx context.Context, root, dir string) error {
	source := filepath.Join(root, "e2e", "containers", "service")
	if err := command(ctx, root, "go", "build", "-trimpath", "-o", filepath.Join(dir, "service"), source); err != nil {
		return err
	}
	dockerfile, err := os.ReadFile(filepath.Join(source, "Dockerfile"))
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), dockerfile, 0o600); err != nil {
		return err
	}
	return build(ctx, dir, "service", suite.present)
}

// compile builds the programs of a source tree.
func compile(ctx context.Context, source, bin, version string) error {
	if err := os.Mkdir(bin, 0o700); err != nil {
		return err
	}
	flags := "-s -w -X github.com/meridian-mesh/meridian/pkg/version.version=" + version
	return command(ctx, source, "go", "build", "-trimpath", "-ldflags", flags, "-o", bin+"/", "./cmd/...")
}

// released gives the source of the build before this one: the commit whose protos those of today are held to. Where
// there is no such history, as in a shallow clone or an archive, it is today's source.
func released(ctx context.Context, root, dir string) string {
	script := `commit="$(git rev-list -1 HEAD -- proto/released.binpb)" && mkdir "$0" && git archive "$commit" | tar -x -C "$0"`
	if err := command(ctx, root, "bash", "-euo", "pipefail", "-c", script, dir); err != nil {
		fmt.Fprintln(os.Stderr, "rolling from today's source:", err)
		return root
	}
	return dir
}

// command runs a program; the error holds what it wrote.
func command(ctx context.Context, dir, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, out)
	}
	return nil
}

// build builds one image, from what is there alone.
func build(ctx context.Context, dir, name, tag string) error {
	var said strings.Builder
	req := testcontainers.ContainerRequest{FromDockerfile: testcontainers.FromDockerfile{
		Context: dir, Repo: "meridian-e2e/" + name, Tag: tag, KeepImage: true, BuildLogWriter: &said,
		BuildOptionsModifier: func(o *client.ImageBuildOptions) {
			o.Labels = map[string]string{label: suite.run}
			o.PullParent = false
		},
	}}
	if _, err := suite.docker.BuildImage(ctx, &req); err != nil {
		return fmt.Errorf("image %s: %w\n%s", name, err, said.String())
	}
	return nil
}

// needDocker skips a test where there is no Docker, by name, or fails it where skips are not allowed.
func needDocker(t *testing.T) {
	t.Helper()
	if suite.missing == nil {
		return
	}
	if suite.require {
		t.Fatalf("%s is missing: %v", t.Name(), suite.missing)
	}
	t.Skipf("SKIPPED %s: %v (tools/with-docker.sh starts a daemon)", t.Name(), suite.missing)
}
