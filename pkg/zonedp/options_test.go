package zonedp

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
)

func makeCA(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// parse gives the options of a command line and an environment.
func parse(t *testing.T, args, environ []string) (Options, error) {
	t.Helper()
	var o Options
	c := &cobra.Command{SilenceErrors: true, SilenceUsage: true}
	fromEnvironment := o.Bind(c)
	c.RunE = func(*cobra.Command, []string) error { return fromEnvironment(environ) }
	c.SetArgs(args)
	err := c.Execute()
	return o, err
}

func TestOptionsFromFlagsAndEnvironment(t *testing.T) {
	o, err := parse(t, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if o.CPAddress != "https://localhost:5678" || o.AdminPort != "30001-65535" || o.RetryBackoff != 3*time.Second ||
		o.RetryMaxDuration != 5*time.Minute || o.DrainTime != 30*time.Second || o.BinaryPath != "" {
		t.Errorf("%+v", o)
	}
	for name, variable := range variables() {
		value := "7s"
		for _, prefix := range []string{"KUMA_", "MERIDIAN_"} {
			var got string
			var o Options
			c := &cobra.Command{}
			fromEnvironment := o.Bind(c)
			if err := fromEnvironment([]string{prefix + variable + "=" + value, "OTHER=x"}); err != nil {
				t.Fatal(err)
			}
			if got = c.Flags().Lookup(name).Value.String(); got != value {
				t.Errorf("%s%s: %q", prefix, variable, got)
			}
		}
	}
	o, err = parse(t, []string{"--name", "flag", "--admin-port="}, []string{
		"KUMA_DATAPLANE_NAME=kuma", "MERIDIAN_DATAPLANE_NAME=ours", "MERIDIAN_DATAPLANE_ADMIN_PORT=7",
		"MERIDIAN_CONTROL_PLANE_URL=https://a:1", "KUMA_CONTROL_PLANE_URL=https://b:1", "ENVOY=/opt/envoy", "KUMA_DNS_ENABLED=true", "KUMA_STORE_TYPE=memory",
	})
	if err != nil || o.Name != "flag" || o.AdminPort != "" || o.CPAddress != "https://a:1" || o.BinaryPath != "/opt/envoy" || len(o.dns) != 1 {
		t.Errorf("%+v, %v", o, err)
	}
	o, err = parse(t, []string{"-d", "f", "-v", "a=b,c=d", "-v", "e=f", "--dns-enabled", "--binary-path", "x"}, []string{"ENVOY=/opt/envoy"})
	if err != nil || o.DataplaneFile != "f" || len(o.DataplaneVars) != 2 || o.DataplaneVars[0] != "a=b,c=d" || len(o.dns) != 1 || o.BinaryPath != "x" {
		t.Errorf("%+v, %v", o, err)
	}
	for _, variable := range []string{"MERIDIAN_DATAPLANE_NAM=x", "MERIDIAN_DATAPLANE_DRAIN_TIME=soon", "KUMA_DATAPLANE_DRAIN_TIME=soon"} {
		name, _, _ := strings.Cut(variable, "=")
		if _, err := parse(t, nil, []string{variable}); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", variable, err)
		}
	}
}

func TestOptionsRefused(t *testing.T) {
	dir := t.TempDir()
	write := func(text string) string {
		f, err := os.CreateTemp(dir, "")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = f.Close() }()
		if _, err := io.WriteString(f, text); err != nil {
			t.Fatal(err)
		}
		return f.Name()
	}
	nowhere := filepath.Join(dir, "nowhere")
	inline := func(text string) func(*Options) {
		return func(o *Options) { o.Name, o.Dataplane = "", text }
	}
	for name, tt := range map[string]struct {
		change func(*Options)
		want   string
	}{
		"no name":             {func(o *Options) { o.Name = "" }, "--name: is needed"},
		"name and dataplane":  {func(o *Options) { o.Dataplane = "name: x" }, "--name and --mesh: stand in the dataplane"},
		"mesh and dataplane":  {func(o *Options) { o.Name, o.Mesh, o.Dataplane = "", "m", "name: x" }, "--name and --mesh"},
		"two dataplanes":      {func(o *Options) { o.Name, o.Dataplane, o.DataplaneFile = "", "name: x", write("name: x") }, "only one of them"},
		"no such dataplane":   {func(o *Options) { o.Name, o.DataplaneFile = "", nowhere }, "--dataplane-file: stat " + nowhere},
		"empty dataplane":     {func(o *Options) { o.Name, o.DataplaneFile = "", write("") }, "is empty"},
		"broken dataplane":    {inline("a: b: c"), "--dataplane-file: "},
		"dataplane, no name":  {inline("mesh: default"), "--dataplane-file: name: is needed"},
		"missing variables":   {inline("name: {{ b }}-{{a}}"), "--dataplane-var: the dataplane needs a, b"},
		"bad variable":        {func(o *Options) { inline("name: x")(o); o.DataplaneVars = []string{"x"} }, "--dataplane-var: must be name=value"},
		"transparent":         {inline("name: x\nnetworking:\n  transparentProxying: {redirectPort: 1}\n  outbound: [{port: 1}]"), "networking.outbound"},
		"two tokens":          {func(o *Options) { o.Token, o.TokenFile = "x", write("x") }, "only one of them"},
		"no such token":       {func(o *Options) { o.TokenFile = nowhere }, "--dataplane-token-file: stat " + nowhere},
		"empty token":         {func(o *Options) { o.TokenFile = write("\n") }, "--dataplane-token-file: "},
		"no such CA":          {func(o *Options) { o.CACertFile = nowhere }, "--ca-cert-file: stat " + nowhere},
		"no CA":               {func(o *Options) { o.CACert = "x" }, "--ca-cert-file: no PEM certificate"},
		"plain":               {func(o *Options) { o.CPAddress = "http://cp:5678" }, "--cp-address: must be https://host:port"},
		"scheme":              {func(o *Options) { o.CPAddress = "grpcs://cp:5678" }, "--cp-address: must be https://host:port, or the API"},
		"path of the API":     {func(o *Options) { o.CPAddress = "http://cp:5681/catalog" }, "--cp-address: must be"},
		"no address":          {func(o *Options) { o.CPAddress = "" }, "--cp-address: must be"},
		"path":                {func(o *Options) { o.CPAddress = "https://cp:5678/x" }, "--cp-address: must be"},
		"port":                {func(o *Options) { o.AdminPort = "x" }, "--admin-port: must be a port"},
		"port 0":              {func(o *Options) { o.AdminPort = "0" }, "--admin-port: must be a port"},
		"port too large":      {func(o *Options) { o.AdminPort = "1-65536" }, "--admin-port: must be a port"},
		"ports the other way": {func(o *Options) { o.AdminPort = "9-8" }, "--admin-port: must not end before"},
		"version":             {func(o *Options) { o.BootstrapVersion = "2" }, "--bootstrap-version"},
		"drain":               {func(o *Options) { o.DrainTime = -1 }, "--drain-time"},
		"backoff":             {func(o *Options) { o.RetryBackoff = 0 }, "--retry-backoff"},
		"no envoy":            {func(o *Options) { o.BinaryPath = nowhere }, "envoy: "},
	} {
		o := defaults()
		o.BinaryPath = "/bin/sh"
		tt.change(&o)
		_, err := New(o, slog.New(slog.DiscardHandler), io.Discard)
		if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for given, want := range map[string]string{
		"https://cp": "https://cp:5678", "https://[::1]": "https://[::1]:5678", "https://cp:1/": "https://cp:1", "https://cp:5682": "https://cp:5682",
		"http://cp": "http://cp:5681", "http://cp:1": "http://cp:1",
	} {
		u, isAPI, err := controlPlane(given)
		if err != nil || u.String() != want || isAPI != strings.HasPrefix(given, "http:") {
			t.Errorf("%s: %v, %v", given, u, err)
		}
	}
}

func FuzzAdminAddress(f *testing.F) {
	f.Add([]byte("admin: {address: {socket_address: {address: 0.0.0.0, port_value: 1}}}"))
	f.Add([]byte(`{"admin":{"address":{"socketAddress":{"address":"::1","portValue":1}}}}`))
	f.Add([]byte("a: &a [*a]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, err := adminAddress(data); err != nil && strings.Contains(err.Error(), "\n") {
			t.Errorf("more than one line: %q", err)
		}
	})
}

func FuzzRender(f *testing.F) {
	f.Add("name: {{ a }}", "a=b")
	f.Add("{{{{a}}}}", "a={{a}}")
	f.Fuzz(func(_ *testing.T, template, v string) { _, _ = render(template, []string{v}) })
}
