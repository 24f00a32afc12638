//! What the board draws, where it has a sensor that tells: INA219, INA226 and INA3221 chips behind the kernel's hwmon files,
//! and the IIO files of JetPack 4's own driver. Watts come out; a board without a sensor has none and no thread is made.
//! Units of hwmon: millivolts, milliamperes, microwatts. JetPack 4's in_powerN_input is in milliwatts.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use thimble_shared::board::report::{Energy, Latency};

use crate::platform::sysfs::{read, read_number};

/// Between two readings: an I²C transfer takes about a millisecond, and the chips average over several.
const PERIOD: Duration = Duration::from_millis(50);
/// Readings of the idle board before anything is loaded.
const IDLE_READINGS: usize = 10;
/// No board here draws more, so more is no reading.
const MOST_WATTS: f64 = 500.0;

/// Chips whose driver shows volts and amperes of one rail each, or of three.
const CHIPS: [&str; 7] = ["ina3221", "ina219", "ina220", "ina226", "ina230", "ina231", "ina238"];
/// Rails through which all of a board's power comes, as Jetson boards call them.
const TOTALS: [&str; 5] = ["VDD_IN", "POM_5V_IN", "VDD_5V_IN", "5V_IN", "SYS_IN"];
const CHANNELS: std::ops::RangeInclusive<u32> = 1..=3;

#[derive(Debug, Clone, PartialEq)]
enum Files {
    /// One file, and how many of its units are a watt.
    Power(PathBuf, f64),
    /// Millivolts and milliamperes.
    Product(PathBuf, PathBuf),
}

/// One rail that is read.
#[derive(Debug, Clone, PartialEq)]
pub struct Sensor {
    /// The chip and what the board calls the rail: "ina3221 VDD_IN".
    pub name: String,
    files: Files,
}

impl Sensor {
    /// The rail that all power comes through, or else the first that gives a reading. `root` is "/" but for tests.
    pub fn find(root: &Path) -> Option<Sensor> {
        let mut found = hwmon(&root.join("sys/class/hwmon"));
        found.extend(jetpack4(&root.join("sys/bus/iio/devices")));
        // One that gives no reading now will not give one later: a rail that is switched off, a chip that does not answer.
        found.retain(|(_, sensor)| sensor.watts().is_some());
        let total = found.iter().position(|(rail, _)| TOTALS.contains(&rail.as_str()));
        (!found.is_empty()).then(|| found.swap_remove(total.unwrap_or(0)).1)
    }

    pub fn watts(&self) -> Option<f64> {
        let watts = match &self.files {
            Files::Power(file, per_watt) => number(file)? / per_watt,
            Files::Product(volts, amperes) => number(volts)? * number(amperes)? / 1e6,
        };
        (0.0..=MOST_WATTS).contains(&watts).then_some(watts)
    }

    /// Mean draw over half a second, before the bench gives the board anything to do.
    pub fn idle(&self) -> Option<f64> {
        let readings: Vec<f64> = (0..IDLE_READINGS)
            .filter_map(|at| {
                if at > 0 {
                    std::thread::sleep(PERIOD);
                }
                self.watts()
            })
            .collect();
        mean(&readings)
    }
}

fn mean(readings: &[f64]) -> Option<f64> {
    (!readings.is_empty()).then(|| readings.iter().sum::<f64>() / readings.len() as f64)
}

fn number(path: &Path) -> Option<f64> {
    read_number::<i64>(path).map(|n| n as f64)
}

/// Directories below `dir` whose name begins with `prefix`, by number: hwmon2 before hwmon10.
fn numbered(dir: &Path, prefix: &str) -> Vec<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let number = entry.file_name().to_str()?.strip_prefix(prefix)?.parse().ok()?;
            Some((number, entry.path()))
        })
        .collect();
    found.sort();
    found.into_iter().map(|(_, path)| path).collect()
}

fn named(chip: &str, rail: &str) -> String {
    // What a device tree says may be anything; a name is for people to read.
    let plain = |t: &str| -> String { t.chars().filter(|c| c.is_ascii_graphic()).take(32).collect() };
    format!("{} {}", plain(chip), plain(rail)).trim_end().to_string()
}

/// Rail and sensor of every channel, chips and channels in order.
fn hwmon(class: &Path) -> Vec<(String, Sensor)> {
    let mut found = Vec::new();
    for dir in numbered(class, "hwmon") {
        let Some(chip) = read(dir.join("name")).filter(|name| CHIPS.contains(&name.as_str())) else {
            continue;
        };
        let own_label = read(dir.join("label"));
        for channel in CHANNELS {
            let rail = read(dir.join(format!("in{channel}_label")))
                .or_else(|| own_label.clone())
                .unwrap_or_default();
            let power = dir.join(format!("power{channel}_input"));
            let files = if power.exists() {
                Files::Power(power, 1e6)
            } else {
                let file = |kind| dir.join(format!("{kind}{channel}_input"));
                Files::Product(file("in"), file("curr"))
            };
            let name = named(&chip, &rail);
            found.push((rail, Sensor { name, files }));
        }
    }
    found
}

fn jetpack4(devices: &Path) -> Vec<(String, Sensor)> {
    let mut found = Vec::new();
    for dir in numbered(devices, "iio:device") {
        let Some(chip) = read(dir.join("name")).filter(|name| name == "ina3221x") else {
            continue;
        };
        for channel in 0..3 {
            let rail = read(dir.join(format!("rail_name_{channel}"))).unwrap_or_default();
            let files = Files::Power(dir.join(format!("in_power{channel}_input")), 1e3);
            let name = named(&chip, &rail);
            found.push((rail, Sensor { name, files }));
        }
    }
    found
}

/// Reads a sensor on a thread of its own until it is told to stop.
pub struct Sampler {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<f64>>,
}

impl Sampler {
    /// `None` where no thread can be made: the bench goes on without.
    pub fn start(sensor: &Sensor) -> Option<Sampler> {
        let (stop, sensor) = (Arc::new(AtomicBool::new(false)), sensor.clone());
        let told = Arc::clone(&stop);
        let work = move || {
            let mut readings = Vec::new();
            loop {
                readings.extend(sensor.watts());
                if told.load(Ordering::Acquire) {
                    return readings;
                }
                std::thread::park_timeout(PERIOD);
            }
        };
        let thread = std::thread::Builder::new()
            .name("power".into())
            .stack_size(64 << 10)
            .spawn(work)
            .ok()?;
        Some(Sampler { stop, thread })
    }

    /// The readings, one at the very end among them.
    pub fn stop(self) -> Vec<f64> {
        self.stop.store(true, Ordering::Release);
        self.thread.thread().unpark();
        self.thread.join().unwrap_or_default()
    }
}

/// The report's figures from the readings of the timed runs; a watt for a millisecond is a millijoule.
pub fn energy(sensor: &Sensor, idle: Option<f64>, readings: &[f64], latency: &Latency) -> Option<Energy> {
    let watts = mean(readings)?;
    Some(Energy {
        sensor: sensor.name.clone(),
        watts,
        idle_watts: idle,
        mj_per_inference: watts * latency.mean? / f64::from(latency.batch.max(1)),
        readings: u32::try_from(readings.len()).unwrap_or(u32::MAX),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A made-up root with these files.
    struct Root(PathBuf);

    impl Root {
        fn new(name: &str, files: &[(&str, &[u8])]) -> Root {
            let root = Root(std::env::temp_dir().join(format!("thimble-power-{name}-{}", std::process::id())));
            let _ = fs::remove_dir_all(&root.0);
            files.iter().for_each(|(path, bytes)| root.write(path, bytes));
            root
        }

        fn write(&self, path: &str, bytes: &[u8]) {
            let path = self.0.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// A Jetson Orin Nano's files: the sum of the shunts is a fourth channel, the whole board's draw the first.
    const ORIN: [(&str, &[u8]); 10] = [
        ("sys/class/hwmon/hwmon0/name", b"tmp451\n"),
        ("sys/class/hwmon/hwmon0/in1_input", b"9999\n"),
        ("sys/class/hwmon/hwmon10/name", b"ina3221\n"),
        ("sys/class/hwmon/hwmon10/in2_label", b"VDD_IN\n"),
        ("sys/class/hwmon/hwmon10/in2_input", b"5000\n"),
        ("sys/class/hwmon/hwmon10/curr2_input", b"1240\n"),
        ("sys/class/hwmon/hwmon10/in1_label", b"VDD_CPU_GPU_CV\n"),
        ("sys/class/hwmon/hwmon10/in1_input", b"5000\n"),
        ("sys/class/hwmon/hwmon10/curr1_input", b"400\n"),
        ("sys/class/hwmon/hwmon10/curr4_input", b"1640\n"),
    ];

    #[test]
    fn the_rail_of_the_whole_board_is_found_and_its_units_are_right() {
        let root = Root::new("orin", &ORIN);
        let sensor = Sensor::find(&root.0).unwrap();
        assert_eq!((sensor.name.as_str(), sensor.watts()), ("ina3221 VDD_IN", Some(6.2)));
        // The rail is switched off: the next best one is read, and it is named.
        root.write("sys/class/hwmon/hwmon10/curr2_input", b"");
        let sensor = Sensor::find(&root.0).unwrap();
        assert_eq!(
            (sensor.name.as_str(), sensor.watts()),
            ("ina3221 VDD_CPU_GPU_CV", Some(2.0))
        );
    }

    #[test]
    fn microwatts_of_an_ina219_and_milliwatts_of_jetpack_4() {
        let root = Root::new(
            "ina219",
            &[
                ("sys/class/hwmon/hwmon2/name", b"ina219\n"),
                // The shunt's voltage is channel 0 and no rail.
                ("sys/class/hwmon/hwmon2/in0_input", b"3\n"),
                ("sys/class/hwmon/hwmon2/in1_input", b"5104\n"),
                ("sys/class/hwmon/hwmon2/curr1_input", b"600\n"),
                ("sys/class/hwmon/hwmon2/power1_input", b"3060000\n"),
            ],
        );
        let sensor = Sensor::find(&root.0).unwrap();
        assert_eq!((sensor.name.as_str(), sensor.watts()), ("ina219", Some(3.06)));
        let root = Root::new(
            "nano",
            &[
                ("sys/bus/iio/devices/iio:device0/name", b"ina3221x\n"),
                ("sys/bus/iio/devices/iio:device0/rail_name_0", b"POM_5V_IN\n"),
                ("sys/bus/iio/devices/iio:device0/in_power0_input", b"2210\n"),
            ],
        );
        let sensor = Sensor::find(&root.0).unwrap();
        assert_eq!(
            (sensor.name.as_str(), sensor.watts()),
            ("ina3221x POM_5V_IN", Some(2.21))
        );
    }

    #[test]
    fn what_is_no_reading_is_no_sensor() {
        assert_eq!(Sensor::find(Path::new("/nonexistent")), None);
        let malformed: [&[u8]; 7] = [
            b"",
            b"\xff\xfe\n",
            b"5000 mV\n",
            b"99999999999999999999\n",
            b"-5000\n",
            b"9000000000\n",
            b"nan\n",
        ];
        for bytes in malformed {
            let root = Root::new("bad", &ORIN);
            for channel in [1, 2] {
                root.write(&format!("sys/class/hwmon/hwmon10/curr{channel}_input"), bytes);
            }
            assert_eq!(Sensor::find(&root.0), None, "{bytes:?}");
        }
        // A directory where a file should be, a name that is none, a label to write on a terminal with.
        let root = Root::new("odd", &ORIN);
        root.write("sys/class/hwmon/hwmon11/name/x", b"");
        root.write("sys/class/hwmon/hwmonx/name", b"ina3221\n");
        root.write("sys/class/hwmon/hwmon10/in2_label", b"\x1b[31mred rail\n");
        root.write("sys/class/hwmon/hwmon10/curr1_input", b"x");
        assert_eq!(Sensor::find(&root.0).unwrap().name, "ina3221 [31mredrail");
    }

    #[test]
    fn a_bench_gets_mean_and_millijoules_and_readings_that_stop_leave_none() {
        let root = Root::new("run", &ORIN);
        let sensor = Sensor::find(&root.0).unwrap();
        let sampler = Sampler::start(&sensor).unwrap();
        std::thread::sleep(PERIOD * 3);
        let readings = sampler.stop();
        assert!(readings.len() >= 3, "{readings:?}");
        let latency = Latency {
            mean: Some(20.0),
            ..Latency::default()
        };
        let told = energy(&sensor, sensor.idle(), &readings, &latency).unwrap();
        assert!(
            (told.watts - 6.2).abs() < 1e-9 && (told.mj_per_inference - 124.0).abs() < 1e-9,
            "{told:?}"
        );
        assert_eq!(
            (told.sensor.as_str(), told.idle_watts.map(|w| (w * 10.0).round())),
            ("ina3221 VDD_IN", Some(62.0))
        );
        assert_eq!(energy(&sensor, None, &[], &latency), None);
        drop(root);
        assert_eq!((sensor.watts(), sensor.idle()), (None, None));
        assert_eq!(Sampler::start(&sensor).unwrap().stop(), Vec::<f64>::new());
    }
}
