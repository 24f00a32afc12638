"""The extension module; what users call wraps it."""

from typing import Callable, List, Optional, Sequence, Tuple

__version__: str

class Model:
    closed: bool
    def __new__(
        cls,
        path: bytes,
        threads: Optional[int],
        copy: bool,
        tokenizer: Optional[bytes],
    ) -> "Model": ...
    def describe(self) -> str: ...
    def notes(self) -> List[str]: ...
    def answers(self, requests: Sequence[str]) -> List[str]: ...
    def embeddings(self, requests: Sequence[str]) -> Tuple[int, bytearray]: ...
    def run(
        self,
        shape: Sequence[int],
        ids: bytes,
        mask: Optional[bytes],
        types: Optional[bytes],
    ) -> List[Tuple[str, List[int], bytearray]]: ...
    def close(self) -> None: ...

def run_command(
    arguments: Sequence[bytes],
    told: Callable[[bool, str], object],
    progress: Optional[Callable[[str, int, int], object]],
) -> Tuple[int, str]: ...
def main(arguments: Sequence[bytes]) -> int: ...
