//! What the kernel says of heat and power, below `/sys` or a folder that stands for it.
//!
//! Everything here may be missing, unreadable or nonsense: then there is no reading.

use crate::config::PowerConfig;
use crate::power::{Battery, Readings, Zone};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Most entries looked at in one folder, and most trip points of a zone.
const MOST: usize = 64;
/// Temperatures beyond these are no temperatures.
const PLAUSIBLE_C: std::ops::Range<f64> = -60.0..250.0;

/// Reads everything once.
pub(super) fn read(config: &PowerConfig) -> Readings {
    let class = config.sysfs.join("class");
    let mut readings = Readings::default();
    for folder in entries(&class.join("thermal"), "thermal_zone") {
        readings.zones.extend(zone(&folder, &config.ignore_zones));
    }
    for folder in entries(&class.join("power_supply"), "") {
        readings.batteries.extend(battery(&folder));
    }
    // The firmware of a Raspberry Pi reports a weak supply here.
    readings.undervoltage = entries(&class.join("hwmon"), "hwmon").iter().any(|folder| {
        text(&folder.join("name")).as_deref() == Some("rpi_volt")
            && text(&folder.join("in0_lcrit_alarm")).as_deref() == Some("1")
    });
    readings
}

fn zone(folder: &Path, ignored: &[String]) -> Option<Zone> {
    if text(&folder.join("mode")).as_deref() == Some("disabled") {
        return None;
    }
    let kind = text(&folder.join("type")).unwrap_or_default();
    if ignored.contains(&kind) {
        return None;
    }
    let celsius = degrees(&folder.join("temp"))?;
    let (mut passive_c, mut critical_c) = (None, None);
    for n in 0..MOST {
        let Some(kind) = text(&folder.join(format!("trip_point_{n}_type"))) else { break };
        let lowest = match kind.as_str() {
            "passive" | "hot" => &mut passive_c,
            "critical" => &mut critical_c,
            _ => continue,
        };
        if let Some(at) = degrees(&folder.join(format!("trip_point_{n}_temp"))) {
            *lowest = Some(lowest.map_or(at, |known: f64| known.min(at)));
        }
    }
    let name = format!("{} {kind}", name(folder)).trim_end().to_owned();
    Some(Zone { name, celsius, passive_c, critical_c })
}

/// A battery that feeds the machine, and not a mouse or a phone.
fn battery(folder: &Path) -> Option<Battery> {
    let device = text(&folder.join("scope")).as_deref() == Some("Device");
    if device || text(&folder.join("type")).as_deref() != Some("Battery") {
        return None;
    }
    if text(&folder.join("present")).as_deref() == Some("0") {
        return None;
    }
    let discharging = text(&folder.join("status")).as_deref() == Some("Discharging");
    let percent = text(&folder.join("capacity")).and_then(|text| text.parse::<f64>().ok());
    let percent = percent.filter(|percent| (0.0..=100.0).contains(percent));
    (discharging || percent.is_some()).then(|| Battery { name: name(folder), discharging, percent })
}

/// Thousandths of a degree Celsius.
fn degrees(file: &Path) -> Option<f64> {
    let celsius = text(file)?.parse::<i64>().ok()? as f64 / 1000.0;
    PLAUSIBLE_C.contains(&celsius).then_some(celsius)
}

fn text(file: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    fs::File::open(file).ok()?.take(256).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8(bytes).ok()?.trim().to_owned())
}

fn name(folder: &Path) -> String {
    folder.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn entries(folder: &Path, prefix: &str) -> Vec<PathBuf> {
    let Ok(found) = fs::read_dir(folder) else { return Vec::new() };
    let paths = found.filter_map(|entry| entry.ok().map(|entry| entry.path()));
    let mut paths: Vec<PathBuf> = paths.filter(|path| name(path).starts_with(prefix)).take(MOST).collect();
    paths.sort();
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Sys(tempfile::TempDir);

    impl Sys {
        fn put(&self, file: &str, content: impl AsRef<[u8]>) {
            let path = self.0.path().join("class").join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }

        fn read(&self) -> Readings {
            read(&PowerConfig { sysfs: self.0.path().to_owned(), ..PowerConfig::default() })
        }
    }

    #[test]
    fn a_machine_without_anything_says_nothing() {
        let sys = Sys(tempfile::tempdir().unwrap());
        assert_eq!(sys.read(), Readings::default());
        fs::write(sys.0.path().join("class"), "a file where a folder should be").unwrap();
        assert_eq!(sys.read(), Readings::default());
    }

    #[test]
    fn zones_with_their_trip_points() {
        let sys = Sys(tempfile::tempdir().unwrap());
        sys.put("thermal/thermal_zone0/type", "cpu-thermal\n");
        sys.put("thermal/thermal_zone0/temp", "61234\n");
        for (n, kind, at) in
            [(0, "active", "40000"), (1, "passive", "95000"), (2, "hot", "85000"), (3, "critical", "110000")]
        {
            sys.put(&format!("thermal/thermal_zone0/trip_point_{n}_type"), kind);
            sys.put(&format!("thermal/thermal_zone0/trip_point_{n}_temp"), at);
        }
        sys.put("thermal/thermal_zone1/type", "PMIC-Die");
        sys.put("thermal/thermal_zone1/temp", "100000");
        sys.put("thermal/thermal_zone2/mode", "disabled");
        sys.put("thermal/thermal_zone2/temp", "99000");
        sys.put("thermal/cooling_device0/type", "Fan");
        let zone = Zone {
            name: "thermal_zone0 cpu-thermal".into(),
            celsius: 61.234,
            passive_c: Some(85.0),
            critical_c: Some(110.0),
        };
        assert_eq!(sys.read().zones, [zone]);
        fs::remove_dir_all(sys.0.path().join("class/thermal/thermal_zone0")).unwrap();
        assert!(sys.read().zones.is_empty(), "a zone that vanished is no reading");
    }

    #[test]
    fn garbage_is_no_reading() {
        let sys = Sys(tempfile::tempdir().unwrap());
        for (n, temp) in
            ["", "hot", "999999999", "-274000", "1e3", "99999999999999999999999"].iter().enumerate()
        {
            sys.put(&format!("thermal/thermal_zone{n}/temp"), temp);
        }
        sys.put("thermal/thermal_zone7/temp", b"\xff\xfe\x00");
        fs::create_dir_all(sys.0.path().join("class/thermal/thermal_zone8/temp")).unwrap();
        sys.put("thermal/thermal_zone9/temp", vec![b'9'; 100_000]);
        sys.put("power_supply/BAT0/type", "Battery");
        sys.put("power_supply/BAT0/status", "?");
        sys.put("power_supply/BAT0/capacity", "250");
        assert_eq!(sys.read(), Readings::default());
        // One good zone among them is found all the same, its bad trip points are not.
        sys.put("thermal/thermal_zone4/temp", "55000");
        sys.put("thermal/thermal_zone4/trip_point_0_type", "passive");
        sys.put("thermal/thermal_zone4/trip_point_0_temp", "soon");
        let zones = sys.read().zones;
        assert_eq!((zones.len(), zones[0].celsius, zones[0].passive_c), (1, 55.0, None));
    }

    #[test]
    fn batteries_of_the_machine_and_a_weak_supply() {
        let sys = Sys(tempfile::tempdir().unwrap());
        for (name, kind, status, capacity) in [
            ("AC", "Mains", "", ""),
            ("BAT0", "Battery", "Discharging", "80"),
            ("BAT1", "Battery", "Full", "100"),
        ] {
            sys.put(&format!("power_supply/{name}/type"), kind);
            sys.put(&format!("power_supply/{name}/status"), status);
            sys.put(&format!("power_supply/{name}/capacity"), capacity);
        }
        sys.put("power_supply/mouse/type", "Battery");
        sys.put("power_supply/mouse/scope", "Device");
        sys.put("power_supply/mouse/status", "Discharging");
        let batteries = sys.read().batteries;
        assert_eq!(batteries.len(), 2, "{batteries:?}");
        assert!(batteries[0].discharging && batteries[0].percent == Some(80.0));
        assert!(!batteries[1].discharging);
        assert!(!sys.read().undervoltage);
        sys.put("hwmon/hwmon3/name", "rpi_volt\n");
        sys.put("hwmon/hwmon3/in0_lcrit_alarm", "1\n");
        assert!(sys.read().undervoltage);
    }
}
