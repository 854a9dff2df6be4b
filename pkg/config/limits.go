package config

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
)

// Size is a number of bytes. A file and a variable may give it with a unit: 512KiB, 32MiB, 1GiB.
type Size int64

// Count is a number of things.
type Count int64

const (
	kib Size = 1 << 10
	mib      = kib << 10
	gib      = mib << 10
)

// String gives the size in the largest unit in which it is whole.
func (s Size) String() string {
	for _, u := range []struct {
		size Size
		name string
	}{{gib, "GiB"}, {mib, "MiB"}, {kib, "KiB"}} {
		if s >= u.size && s%u.size == 0 {
			return strconv.FormatInt(int64(s/u.size), 10) + u.name
		}
	}
	return strconv.FormatInt(int64(s), 10)
}

// Limits bound what anyone may make a control plane hold or do. Each is a hard one: what goes beyond is refused, by
// an error that names the key.
type Limits struct {
	ObjectBytes     Size  `json:"objectBytes" help:"largest object, as its body and as it is stored; a zone whose limit is lower than the global's rejects what is larger by name"`
	BodyBytes       Size  `json:"bodyBytes" help:"largest body of any other request"`
	BatchBytes      Size  `json:"batchBytes" help:"largest body of a batch"`
	BatchItems      Count `json:"batchItems" help:"most resources that a batch puts and deletes"`
	JSONDepth       Count `json:"jsonDepth" help:"how deep lists and objects of a body may nest"`
	YAMLAliasGrowth Count `json:"yamlAliasGrowth" help:"how many times its own size a YAML body may grow by aliases"`
	HeaderBytes     Size  `json:"headerBytes" help:"largest headers of a request"`
	HeaderSeconds   Count `json:"headerSeconds" help:"for how long a client may send headers"`
	PageItems       Count `json:"pageItems" help:"most items on a page of a list"`
	PageBytes       Size  `json:"pageBytes" help:"size at which a page ends though it has fewer items"`
	AnswerBytes     Size  `json:"answerBytes" help:"pages that wait to be read, all together; beyond that pages are smaller"`
	Waits           Count `json:"waits" help:"requests that wait for a revision at the same time, a quarter of them of callers who may write only"`
	Watches         Count `json:"watches" help:"watches that are open at the same time, a quarter of them of callers who may write only"`
}

// GlobalLimits are the limits of a global control plane.
type GlobalLimits struct {
	Limits
	ZoneObjects          Count `json:"zoneObjects" help:"objects that a zone may keep at the global control plane"`
	ZoneBytes            Size  `json:"zoneBytes" help:"size of the objects that a zone may keep at the global control plane"`
	ZoneChangesPerSecond Count `json:"zoneChangesPerSecond" help:"changes a second that are taken from a zone; more have to wait"`
}

// ZoneLimits are the limits of a zone control plane.
type ZoneLimits struct {
	Limits
	ADSStreams        Count `json:"adsStreams" help:"xDS streams at the same time"`
	NodeMetadataBytes Size  `json:"nodeMetadataBytes" help:"largest metadata of a proxy's node"`
}

func defaultLimits() Limits {
	return Limits{
		ObjectBytes: 512 * kib, BodyBytes: mib, BatchBytes: 32 * mib, BatchItems: 10_000, JSONDepth: 64, YAMLAliasGrowth: 10, HeaderBytes: 64 * kib, HeaderSeconds: 10,
		PageItems: 10_000, PageBytes: 32 * mib, AnswerBytes: 128 * mib, Waits: 1000, Watches: 1000,
	}
}

func defaultGlobalLimits() GlobalLimits {
	return GlobalLimits{Limits: defaultLimits(), ZoneObjects: 200_000, ZoneBytes: gib, ZoneChangesPerSecond: 2000}
}

func defaultZoneLimits() ZoneLimits {
	return ZoneLimits{Limits: defaultLimits(), ADSStreams: 20_000, NodeMetadataBytes: 256 * kib}
}

// within checks a number against the least and the most that make sense.
func within[N Size | Count](key string, n, least, most N) error {
	if n >= least && n <= most {
		return nil
	}
	return fmt.Errorf("limits.%s: must be from %d to %d, got %d", key, least, most, n)
}

func (l *Limits) validate() error {
	return firstError(
		within("objectBytes", l.ObjectBytes, 4*kib, 8*mib),
		within("bodyBytes", l.BodyBytes, 4*kib, 64*mib),
		within("batchBytes", l.BatchBytes, 4*kib, 256*mib),
		within("batchItems", l.BatchItems, 1, 100_000),
		within("jsonDepth", l.JSONDepth, 16, 64),
		within("yamlAliasGrowth", l.YAMLAliasGrowth, 1, 100),
		within("headerBytes", l.HeaderBytes, 4*kib, mib),
		within("headerSeconds", l.HeaderSeconds, 1, 60),
		within("pageItems", l.PageItems, 100, 1_000_000),
		within("pageBytes", l.PageBytes, 64*kib, 256*mib),
		within("answerBytes", l.AnswerBytes, mib, 64*gib),
		within("waits", l.Waits, 1, 100_000),
		within("watches", l.Watches, 1, 100_000),
		needs(l.AnswerBytes < l.PageBytes, "limits.answerBytes", "must not be less than limits.pageBytes"),
	)
}

func (l *GlobalLimits) validate() error {
	return firstError(
		l.Limits.validate(),
		within("zoneObjects", l.ZoneObjects, 100, 200_000),
		within("zoneBytes", l.ZoneBytes, mib, gib),
		within("zoneChangesPerSecond", l.ZoneChangesPerSecond, 1, 100_000),
	)
}

func (l *ZoneLimits) validate() error {
	return firstError(
		l.Limits.validate(),
		within("adsStreams", l.ADSStreams, 1, 1_000_000),
		within("nodeMetadataBytes", l.NodeMetadataBytes, 4*kib, 4*mib),
	)
}

// setNumber takes the text of a Size or a Count.
func setNumber(v reflect.Value, text string) error {
	unit := int64(1)
	if v.Type() == reflect.TypeFor[Size]() {
		for suffix, n := range map[string]Size{"KiB": kib, "MiB": mib, "GiB": gib} {
			if rest, ok := strings.CutSuffix(text, suffix); ok {
				text, unit = strings.TrimSpace(rest), int64(n)
				break
			}
		}
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 || n > math.MaxInt64/unit {
		if v.Type() == reflect.TypeFor[Size]() {
			return fmt.Errorf("must be a number of bytes, or one of KiB, MiB or GiB, got %q", text)
		}
		return fmt.Errorf("must be a number, got %q", text)
	}
	v.SetInt(n * unit)
	return nil
}

// numberText is the text of a number of a YAML file.
func numberText(value any) (string, error) {
	switch v := value.(type) {
	case string:
		return v, nil
	case uint64, int64, int:
		return fmt.Sprint(v), nil
	}
	return "", errors.New("must be a whole number")
}
