//! The small corpus of a large one: the inputs that reach the most edges for their bytes.

use std::collections::HashSet;

/// Bounds of a small corpus: inputs, and bytes with the length of each.
pub(super) const MOST: (usize, usize) = (100, 64 << 10);
const LENGTH: usize = 2;

/// An input, and the edges it reaches.
pub struct Reached {
    /// The input.
    pub input: Vec<u8>,
    /// Its edges, by number.
    pub edges: Vec<u32>,
}

/// What libFuzzer is asked: which edges each of these files reaches (a control file of its `-merge`).
pub fn question(files: &[String]) -> String {
    format!("{}\n0\n{}\n", files.len(), files.join("\n"))
}

/// What it answered: the edges of each file, by its place.
pub fn answer(text: &str, files: usize) -> Option<Vec<Vec<u32>>> {
    let mut edges = vec![Vec::new(); files];
    for line in text.lines().filter_map(|line| line.strip_prefix("FT ")) {
        let mut numbers = line.split(' ').map(str::parse);
        let place: u32 = numbers.next()?.ok()?;
        *edges.get_mut(place as usize)? = numbers.collect::<Result<_, _>>().ok()?;
    }
    Some(edges)
}

/// Takes the input that adds the most edges for its bytes, again and again, while there is room and any adds one.
pub fn choose(mut from: Vec<Reached>) -> Vec<Vec<u8>> {
    let (mut chosen, mut bytes) = (Vec::new(), 0);
    while chosen.len() < MOST.0 {
        from.retain(|one| !one.edges.is_empty() && bytes + one.input.len() + LENGTH <= MOST.1);
        // Bytes that each input costs beside its own.
        let worth = |one: &Reached| (one.edges.len() << 20) / (one.input.len() + 32);
        let Some(best) = (0..from.len()).max_by_key(|at| worth(&from[*at])) else { break };
        let best = from.swap_remove(best);
        let covered: HashSet<u32> = best.edges.into_iter().collect();
        from.iter_mut().for_each(|one| one.edges.retain(|edge| !covered.contains(edge)));
        bytes += best.input.len() + LENGTH;
        chosen.push(best.input);
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reached(length: usize, edges: &[u32]) -> Reached {
        Reached { input: vec![0; length], edges: edges.to_vec() }
    }

    #[test]
    fn edges_are_asked_and_answered_by_the_place_of_a_file() {
        let files = ["a".to_string(), "b".into()];
        let control = question(&files) + "STARTED 0 4\nFT 0 7 9\nCOV 0 7 9\nSTARTED 1 2\nFT 1\nCOV 1\n";
        assert!(control.starts_with("2\n0\na\nb\n"));
        assert_eq!(answer(&control, 2), Some(vec![vec![7, 9], vec![]]));
        assert_eq!(answer(&control, 0), None, "of another question");
    }

    #[test]
    fn the_cheapest_inputs_that_add_something_are_taken() {
        let from = vec![reached(1000, &[1, 2, 3]), reached(10, &[1, 2]), reached(20, &[2]), reached(500, &[3, 4])];
        let lengths: Vec<usize> = choose(from).iter().map(Vec::len).collect();
        assert_eq!(lengths, [10, 500]);
        assert!(choose(vec![reached(MOST.1, &[1])]).is_empty(), "no room");
        assert_eq!(choose((0..200).map(|edge| reached(9, &[edge])).collect()).len(), MOST.0);
    }
}
