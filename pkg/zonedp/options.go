// Package zonedp runs one data plane proxy: it fetches the bootstrap from the zone control plane, starts Envoy
// with it, stays beside Envoy, and takes leave of the control plane when either ends.
package zonedp

import (
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"
)

const (
	// Prefix begins the environment variables that are read; one that names no option is refused.
	Prefix = "MERIDIAN_"
	// aliasPrefix begins the published names of the same variables.
	aliasPrefix = "KUMA_"

	// proxyPort and apiPort are where a zone control plane has its port for proxies and its API if nothing is said.
	proxyPort      = "5678"
	apiPort        = "5681"
	defaultAddress = "https://localhost:" + proxyPort
	defaultMesh    = "default"
	// maxFile bounds the files that are read, in bytes.
	maxFile = 1 << 20
)

// Options say which proxy to run and how. They come from flags and the environment; Bind fills them.
type Options struct {
	// Name and Mesh of a dataplane that is registered. Not together with Dataplane or DataplaneFile.
	Name, Mesh string
	// CPAddress is the zone control plane's port for proxies, https://host:port, or its API, http://host:port.
	CPAddress string
	// CACertFile, or CACert as PEM, is what the control plane is verified with. Without either the bootstrap is
	// fetched from whoever answers, and Envoy trusts the CA that comes with it.
	CACertFile, CACert string
	// TokenFile, or Token, is the dataplane token.
	TokenFile, Token string
	// DataplaneFile, or Dataplane as JSON or YAML, is a dataplane that lives as long as the proxy.
	// DataplaneVars, name=value each, stand in it as {{ name }}.
	Dataplane, DataplaneFile string
	DataplaneVars            []string
	// AdminPort is a port or a range, of which the first free one is taken; empty: no admin.
	AdminPort string
	// BinaryPath is Envoy; empty: $ENVOY, else envoy on the PATH.
	BinaryPath string
	// ConfigDir is where the bootstrap is written; empty: a temporary directory.
	ConfigDir string
	// BootstrapVersion is "3" or empty.
	BootstrapVersion string
	// RetryBackoff and RetryMaxDuration are for fetching the bootstrap.
	RetryBackoff, RetryMaxDuration time.Duration
	// DrainTime is how long Envoy goes on serving after it was told to stop.
	DrainTime time.Duration

	dns []string // names of given options that have no effect
}

// variables gives for each flag its environment variable without the prefix.
func variables() map[string]string {
	return map[string]string{
		"name":                 "DATAPLANE_NAME",
		"mesh":                 "DATAPLANE_MESH",
		"cp-address":           "CONTROL_PLANE_URL",
		"ca-cert-file":         "CONTROL_PLANE_CA_CERT_FILE",
		"ca-cert":              "CONTROL_PLANE_CA_CERT",
		"dataplane-token-file": "DATAPLANE_RUNTIME_TOKEN_PATH",
		"dataplane-token":      "DATAPLANE_RUNTIME_TOKEN",
		"dataplane":            "DATAPLANE_RUNTIME_RESOURCE",
		"dataplane-file":       "DATAPLANE_RUNTIME_RESOURCE_PATH",
		"admin-port":           "DATAPLANE_ADMIN_PORT",
		"binary-path":          "DATAPLANE_RUNTIME_BINARY_PATH",
		"config-dir":           "DATAPLANE_RUNTIME_CONFIG_DIR",
		"bootstrap-version":    "DATAPLANE_BOOTSTRAP_VERSION",
		"retry-backoff":        "CONTROL_PLANE_RETRY_BACKOFF",
		"retry-max-duration":   "CONTROL_PLANE_RETRY_MAX_DURATION",
		"drain-time":           "DATAPLANE_DRAIN_TIME",
	}
}

// dnsVariables begins the variables of a DNS server beside Envoy, which there is not.
const dnsVariables = "DNS_"

// Bind adds the flags to a command. The function it gives must be called when they are parsed; it takes from the
// environment what no flag gave. Errors name the variable.
func (o *Options) Bind(cmd *cobra.Command) (fromEnvironment func(environ []string) error) {
	f := cmd.Flags()
	f.StringVar(&o.Name, "name", "", "name of the dataplane, if it is registered")
	f.StringVar(&o.Mesh, "mesh", "", `mesh of the dataplane, if it is registered (default "`+defaultMesh+`")`)
	f.StringVar(&o.CPAddress, "cp-address", defaultAddress, "the zone control plane's port for proxies, or its API (http://host:5681), whose catalog leads there")
	f.StringVar(&o.CACertFile, "ca-cert-file", "", "file of the CA that the control plane is verified with; without it whoever answers is believed")
	f.StringVar(&o.CACert, "ca-cert", "", "that CA itself, as PEM")
	f.StringVar(&o.TokenFile, "dataplane-token-file", "", "file of the dataplane token")
	f.StringVar(&o.Token, "dataplane-token", "", "the dataplane token itself")
	f.StringVar(&o.Dataplane, "dataplane", "", "a dataplane that lives as long as the proxy, as JSON or YAML")
	f.StringVarP(&o.DataplaneFile, "dataplane-file", "d", "", "file of such a dataplane")
	f.StringArrayVarP(&o.DataplaneVars, "dataplane-var", "v", nil, "name=value that stands as {{ name }} in the dataplane; may be given often")
	f.StringVar(&o.AdminPort, "admin-port", "30001-65535", "port of Envoy's admin, or a range of which the first free one is taken; empty switches it off")
	f.StringVar(&o.BinaryPath, "binary-path", "", "Envoy (default $ENVOY, else envoy on the PATH)")
	f.StringVar(&o.ConfigDir, "config-dir", "", "directory for the bootstrap (default a temporary one)")
	f.StringVar(&o.BootstrapVersion, "bootstrap-version", "", "version of the bootstrap: 3, or empty")
	f.DurationVar(&o.RetryBackoff, "retry-backoff", 3*time.Second, "time between attempts to fetch the bootstrap")
	f.DurationVar(&o.RetryMaxDuration, "retry-max-duration", 5*time.Minute, "time after which no further attempt is made")
	f.DurationVar(&o.DrainTime, "drain-time", 30*time.Second, "time for which Envoy goes on serving when the proxy is told to stop")
	dns := []string{
		"dns-envoy-port", "dns-coredns-port", "dns-coredns-empty-port", "dns-prometheus-port",
		"dns-coredns-path", "dns-coredns-config-template-path", "dns-server-config-dir",
	}
	for _, name := range dns {
		f.String(name, "", "has no effect")
		_ = f.MarkHidden(name)
	}
	f.Bool("dns-enabled", false, "has no effect")
	_ = f.MarkHidden("dns-enabled")

	return func(environ []string) error {
		for _, name := range append(dns, "dns-enabled") {
			if f.Changed(name) {
				o.dns = append(o.dns, "--"+name)
			}
		}
		set := map[string]string{} // flag: by which variable
		flags := map[string]string{}
		for name, variable := range variables() {
			flags[variable] = name
		}
		// Our own names come last, and win.
		for _, prefix := range []string{aliasPrefix, Prefix} {
			for _, e := range environ {
				variable, value, _ := strings.Cut(e, "=")
				short, ours := strings.CutPrefix(variable, prefix)
				name, known := flags[short]
				switch {
				case !ours:
				case strings.HasPrefix(short, dnsVariables):
					o.dns = append(o.dns, variable)
				case !known && prefix == Prefix:
					return fmt.Errorf("%s: unknown variable", variable)
				case !known || set[name] == "" && f.Changed(name):
				default:
					set[name] = variable
					if err := f.Set(name, value); err != nil {
						return fmt.Errorf("%s: %w", variable, err)
					}
				}
			}
		}
		if o.BinaryPath == "" {
			o.BinaryPath = lookup(environ, "ENVOY")
		}
		return nil
	}
}

func lookup(environ []string, name string) string {
	for _, e := range environ {
		if v, ok := strings.CutPrefix(e, name+"="); ok {
			return v
		}
	}
	return ""
}

// settings are options that were checked, with the files read.
type settings struct {
	Options
	address *url.URL
	// isAPI says that address is the API, whose catalog has that of the port for proxies.
	isAPI    bool
	roots    *x509.CertPool // nil: do not verify
	resource string         // the dataplane, rendered
	adminMin uint16
	adminMax uint16 // 0: no admin
}

// check reads the files. Errors begin with the flag.
func (o Options) check() (s settings, err error) {
	s = settings{Options: o}
	if s.address, s.isAPI, err = controlPlane(o.CPAddress); err != nil {
		return s, fmt.Errorf("--cp-address: %w", err)
	}
	if s.CACert, err = either("--ca-cert-file", o.CACertFile, "--ca-cert", o.CACert); err != nil {
		return s, err
	}
	if s.CACert != "" {
		s.roots = x509.NewCertPool()
		if !s.roots.AppendCertsFromPEM([]byte(s.CACert)) {
			return s, errors.New("--ca-cert-file: no PEM certificate")
		}
	}
	if s.Token, err = either("--dataplane-token-file", o.TokenFile, "--dataplane-token", o.Token); err != nil {
		return s, err
	}
	if s.Token = strings.TrimSpace(s.Token); s.Token == "" && o.TokenFile != "" {
		return s, fmt.Errorf("--dataplane-token-file: %s is empty", o.TokenFile)
	}
	if err := s.dataplane(); err != nil {
		return s, err
	}
	if s.adminMin, s.adminMax, err = portRange(o.AdminPort); err != nil {
		return s, fmt.Errorf("--admin-port: %w", err)
	}
	if o.BootstrapVersion != "" && o.BootstrapVersion != "3" {
		return s, fmt.Errorf("--bootstrap-version: only 3 is served, got %q", o.BootstrapVersion)
	}
	for _, d := range []struct {
		flag     string
		duration time.Duration
		least    time.Duration
	}{{"--retry-backoff", o.RetryBackoff, time.Millisecond}, {"--retry-max-duration", o.RetryMaxDuration, 0}, {"--drain-time", o.DrainTime, 0}} {
		if d.duration < d.least {
			return s, fmt.Errorf("%s: must be at least %s, got %s", d.flag, d.least, d.duration)
		}
	}
	return s, nil
}

// controlPlane reads an address of the control plane: its port for proxies, or, in plain, its API.
func controlPlane(address string) (u *url.URL, isAPI bool, err error) {
	if u, err = url.Parse(address); err != nil {
		return nil, false, err
	}
	isAPI = u.Scheme == "http" && u.Port() != proxyPort
	if u.Scheme != "https" && !isAPI || u.Hostname() == "" || u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return nil, false, fmt.Errorf("must be https://host:port, or the API, http://host:%s, got %q", apiPort, address)
	}
	u.Path = ""
	switch {
	case u.Port() != "":
	case isAPI:
		u.Host += ":" + apiPort
	default:
		u.Host += ":" + proxyPort
	}
	return u, isAPI, nil
}

// either gives the content of a file, or a value given directly.
func either(fileFlag, file, valueFlag, value string) (string, error) {
	if file == "" {
		return value, nil
	}
	if value != "" {
		return "", fmt.Errorf("%s and %s: only one of them can be given", fileFlag, valueFlag)
	}
	info, err := os.Stat(file)
	if err == nil && info.Size() > maxFile {
		err = fmt.Errorf("%s is larger than %d bytes", file, maxFile)
	}
	if err != nil {
		return "", fmt.Errorf("%s: %w", fileFlag, err)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("%s: %w", fileFlag, err)
	}
	return string(data), nil
}

// dataplane renders the dataplane if one is given, and takes name and mesh from it.
func (s *settings) dataplane() error {
	const flag = "--dataplane-file"
	text, err := either(flag, s.DataplaneFile, "--dataplane", s.Dataplane)
	if err != nil {
		return err
	}
	if text == "" {
		if s.DataplaneFile != "" {
			return fmt.Errorf("%s: %s is empty", flag, s.DataplaneFile)
		}
		if s.Name == "" {
			return errors.New("--name: is needed where no --dataplane-file or --dataplane is given")
		}
		if s.Mesh == "" {
			s.Mesh = defaultMesh
		}
		return nil
	}
	if s.Name != "" || s.Mesh != "" {
		return errors.New("--name and --mesh: stand in the dataplane where --dataplane-file or --dataplane is given")
	}
	if s.resource, err = render(text, s.DataplaneVars); err != nil {
		return err
	}
	var d struct {
		Name       string `yaml:"name"`
		Mesh       string `yaml:"mesh"`
		Networking struct {
			TransparentProxying any   `yaml:"transparentProxying"`
			Outbound            []any `yaml:"outbound"`
		} `yaml:"networking"`
	}
	if err := yaml.Unmarshal([]byte(s.resource), &d); err != nil {
		line, _, _ := strings.Cut(err.Error(), "\n")
		return fmt.Errorf("%s: %s", flag, line)
	}
	if d.Name == "" {
		return fmt.Errorf("%s: name: is needed", flag)
	}
	if d.Networking.TransparentProxying != nil && len(d.Networking.Outbound) > 0 {
		return fmt.Errorf("%s: networking.outbound: can't stand beside networking.transparentProxying", flag)
	}
	s.Name, s.Mesh = d.Name, d.Mesh
	if s.Mesh == "" {
		s.Mesh = defaultMesh
	}
	return nil
}

var placeholder = regexp.MustCompile(`\{\{\s*([A-Za-z0-9_.-]+)\s*\}\}`)

// render puts the variables, name=value each, in the places of a template.
func render(template string, vars []string) (string, error) {
	values := map[string]string{}
	for _, v := range vars {
		name, value, ok := strings.Cut(v, "=")
		if !ok || name == "" {
			return "", fmt.Errorf("--dataplane-var: must be name=value, got %q", v)
		}
		values[name] = value
	}
	missing := map[string]bool{}
	out := placeholder.ReplaceAllStringFunc(template, func(p string) string {
		name := placeholder.FindStringSubmatch(p)[1]
		value, ok := values[name]
		if !ok {
			missing[name] = true
		}
		return value
	})
	if len(missing) > 0 {
		return "", fmt.Errorf("--dataplane-var: the dataplane needs %s", strings.Join(slices.Sorted(maps.Keys(missing)), ", "))
	}
	return out, nil
}

func portRange(text string) (low, high uint16, err error) {
	if text == "" {
		return 0, 0, nil
	}
	from, to, isRange := strings.Cut(text, "-")
	if !isRange {
		to = from
	}
	for _, p := range []struct {
		text string
		to   *uint16
	}{{from, &low}, {to, &high}} {
		n, err := strconv.ParseUint(strings.TrimSpace(p.text), 10, 16)
		if err != nil || n == 0 {
			return 0, 0, fmt.Errorf("must be a port, a range of ports (30001-65535), or empty, got %q", text)
		}
		*p.to = uint16(n)
	}
	if low > high {
		return 0, 0, fmt.Errorf("must not end before it begins, got %q", text)
	}
	return low, high, nil
}

// warn says what of the options is not as safe or as effective as it looks.
func (s *settings) warn(log *slog.Logger) {
	if s.roots == nil {
		log.Warn("the control plane was not verified, and Envoy trusts the CA that it named; give --ca-cert-file")
	}
	for _, name := range s.dns {
		log.Warn(name + " has no effect: there is no DNS server beside Envoy")
	}
	if s.adminMax == 0 {
		log.Warn("without --admin-port it can't be seen when Envoy is ready, and it can't be drained")
	}
}
